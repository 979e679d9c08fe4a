"""Mix new data with replay in exact proportions. Pure arithmetic on small values."""

import logging
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from infra.bounds import Bounds
from storage.layout import Layout
from storage.replay import ReplayManifest, ReplayStratum
from training.config import FORBID_UNKNOWN, Mixture, Stream

logger = logging.getLogger(__name__)

TOTAL_PARTS = 4096
"""Resolution of the shares: a stream gets whole parts of so many, or of more if need be."""

_MAX_PARTS = 2**16
_PARTS_A_STREAM = 8

MAX_REFERENCE_PASSES = 4
"""Of one update over the reference: so often repeated text still teaches almost like new text
(Muennighoff et al. 2023, arXiv:2305.16264)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayConfig:
    """How much old data an update sees, and how much is kept for that."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN

    share: Annotated[float, Bounds(ge=0, lt=1)] = 0.25
    """Share of an update's tokens that is replay, of those that are not reference; it takes the
    place of new tokens, it is not extra compute.
    5% is enough for a weak shift, 25% for a strong one such as another language (Ibrahim et al.
    2024)."""
    reference_share: Annotated[float, Bounds(ge=0, lt=1)] = 0.5
    """Share of an update's tokens that is ``base.reference``, for the life of the lineage: it
    stands for all that an imported model was trained on, beside which a night's text is small, so
    what was learned since must not thin it out. Less where the reference is so small that an
    update would pass over it more than four times. 0: replayed like all else, by its size. Without
    a reference it says nothing."""
    budget_tokens: Annotated[int, Bounds(ge=0, unit="tokens")] = 1_000_000_000
    """Size of the replay buffer, stratified by domain and time."""


@dataclass(frozen=True, slots=True)
class NewSlice:
    """The training samples of one domain of a pending snapshot."""

    snapshot: str
    domain: str
    samples: int


@dataclass(frozen=True, slots=True)
class Shares:
    """Of an update's tokens; what they leave is new."""

    reference: float
    own: float
    """Replay of what the lineage has learned itself."""


@dataclass(frozen=True, slots=True)
class OldSamples:
    """What the buffer keeps, by where it is from."""

    reference: int
    own: int


def old_samples(replay: ReplayManifest | None, references: Collection[str]) -> OldSamples:
    """Samples of the buffer, those of the snapshots in ``references`` apart from all others."""
    strata = replay.strata if replay else ()
    reference = sum(stratum.samples for stratum in strata if stratum.snapshot in references)
    return OldSamples(reference, sum(stratum.samples for stratum in strata) - reference)


def shares_of(config: ReplayConfig, old: OldSamples, *, beside: float) -> Shares:
    """What an update replays.

    Args:
        config: Shares as they are asked for.
        old: What there is to replay.
        beside: Samples that the update draws beside the reference: it bounds how much of a small
            reference is drawn.
    """
    own = config.share if old.own else 0.0
    if not old.reference:
        return Shares(0.0, own)
    most = MAX_REFERENCE_PASSES * old.reference
    reference = min(config.reference_share, most / (most + max(0.0, beside)))
    by_size = config.share * old.reference / (old.reference + old.own)
    if by_size >= reference:
        return Shares(by_size, config.share - by_size)
    return Shares(reference, (1 - reference) * own)


def mix(
    layout: Layout,
    new: Sequence[NewSlice],
    replay: ReplayManifest | None,
    *,
    shares: Shares,
    seed: int,
    references: Collection[str] = (),
) -> Mixture:
    """The streams of one update with their parts of ``TOTAL_PARTS``.

    New slices share what replay leaves in proportion to their samples; strata share their part of
    the replay, the reference's or the lineage's own, in proportion to what the buffer keeps of
    them, which is how the buffer's own stratification reaches the batches. Without a buffer (the
    first version) everything is new.

    Args:
        layout: Of the lineage.
        new: What waits.
        replay: The buffer, if there is one.
        shares: Of the tokens; a share of what the buffer does not have is new.
        seed: Of the order of samples.
        references: Snapshots of the buffer that are the reference.

    Raises:
        ValueError: There is no new sample, or there are more streams than parts.
    """
    fresh = [piece for piece in new if piece.samples > 0]
    if not fresh:
        raise ValueError("cannot mix an update without new training samples")
    strata = [stratum for stratum in (replay.strata if replay else ()) if stratum.samples > 0]
    reference = [stratum for stratum in strata if stratum.snapshot in references]
    own = [stratum for stratum in strata if stratum.snapshot not in references]
    left = 1 - (shares.reference if reference else 0.0) - (shares.own if own else 0.0)
    total_parts = _resolution(
        (len(fresh), left), (len(reference), shares.reference), (len(own), shares.own)
    )
    if shares.reference + shares.own and not strata:
        logger.info("no replay buffer yet: this update sees new data only")
    reference_parts = _parts(reference, round(total_parts * shares.reference))
    own_parts = _parts(own, round(total_parts * shares.own))
    rest = total_parts - sum(reference_parts) - sum(own_parts)
    new_parts = apportion([piece.samples for piece in fresh], rest)
    streams = [
        _stream(layout, piece, parts, available=piece.samples, is_replay=False)
        for piece, parts in zip(fresh, new_parts, strict=True)
    ] + [
        _stream(layout, stratum, parts, available=stratum.available, is_replay=True)
        for stratum, parts in zip([*reference, *own], [*reference_parts, *own_parts], strict=True)
        if parts
    ]
    return Mixture(streams=_reduced(streams), seed=seed)


def _parts(strata: Sequence[ReplayStratum], total: int) -> list[int]:
    return apportion([stratum.samples for stratum in strata], total)


def _resolution(*groups: tuple[int, float]) -> int:
    """Parts of a mixture, so many that the smallest streams do not get much more than their due.

    ``groups`` are numbers of streams with the share of each group.
    """
    total = TOTAL_PARTS
    while total < _MAX_PARTS and any(
        total * share < _PARTS_A_STREAM * streams for streams, share in groups
    ):
        total *= 2
    return total


def apportion(weights: Sequence[int], total: int) -> list[int]:
    """Whole parts in proportion to ``weights``, summing to ``total``.

    Every weight gets at least one part; the rest goes by largest remainders. With
    ``total`` 0 all parts are 0.

    Raises:
        ValueError: More weights than parts.
    """
    if total == 0 or not weights:
        return [0] * len(weights)
    if len(weights) > total:
        raise ValueError(f"{len(weights)} streams cannot share {total} parts of a mixture")
    free = total - len(weights)
    scale = sum(weights)
    parts = [1 + weight * free // scale for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda i: (-(weights[i] * free % scale), i))
    for index in by_remainder[: total - sum(parts)]:
        parts[index] += 1
    return parts


def _stream(
    layout: Layout,
    piece: NewSlice | ReplayStratum,
    parts: int,
    *,
    available: int,
    is_replay: bool,
) -> Stream:
    return Stream(
        snapshot=piece.snapshot,
        domain=piece.domain,
        prefix=layout.shards(piece.snapshot, piece.domain, "train"),
        parts=parts,
        samples=piece.samples,
        available=available,
        is_replay=is_replay,
    )


def _reduced(streams: list[Stream]) -> tuple[Stream, ...]:
    divisor = math.gcd(*(stream.parts for stream in streams))
    return tuple(replace(stream, parts=stream.parts // divisor) for stream in streams)
