"""Mix new data with replay in exact proportions. Pure arithmetic on small values."""

import logging
import math
from collections.abc import Sequence
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


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayConfig:
    """How much old data an update sees, and how much is kept for that."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN

    share: Annotated[float, Bounds(ge=0, lt=1)] = 0.25
    """Share of an update's tokens that is replay; it takes the place of new tokens, it is not
    extra compute.
    5% is enough for a weak shift, 25% for a strong one such as another language (Ibrahim et al.
    2024)."""
    budget_tokens: Annotated[int, Bounds(ge=0, unit="tokens")] = 1_000_000_000
    """Size of the replay buffer, stratified by domain and time."""


@dataclass(frozen=True, slots=True)
class NewSlice:
    """The training samples of one domain of a pending snapshot."""

    snapshot: str
    domain: str
    samples: int


def mix(
    layout: Layout,
    new: Sequence[NewSlice],
    replay: ReplayManifest | None,
    *,
    replay_share: float,
    seed: int,
) -> Mixture:
    """The streams of one update with their parts of ``TOTAL_PARTS``.

    New slices share what replay leaves in proportion to their samples; strata share the replay in
    proportion to what the buffer keeps of them, which is how the buffer's own stratification
    reaches the batches. Without a buffer (the first version) everything is new.

    Raises:
        ValueError: There is no new sample, or there are more streams than parts.
    """
    fresh = [piece for piece in new if piece.samples > 0]
    if not fresh:
        raise ValueError("cannot mix an update without new training samples")
    strata = [stratum for stratum in (replay.strata if replay else ()) if stratum.samples > 0]
    total_parts = _resolution(len(fresh), len(strata), replay_share)
    replay_parts = round(total_parts * replay_share) if strata else 0
    if replay_share and not strata:
        logger.info("no replay buffer yet: this update sees new data only")
    new_parts = apportion([piece.samples for piece in fresh], total_parts - replay_parts)
    old_parts = apportion([stratum.samples for stratum in strata], replay_parts)
    streams = [
        _stream(layout, piece, parts, available=piece.samples, is_replay=False)
        for piece, parts in zip(fresh, new_parts, strict=True)
    ] + [
        _stream(layout, stratum, parts, available=stratum.available, is_replay=True)
        for stratum, parts in zip(strata, old_parts, strict=True)
        if parts
    ]
    return Mixture(streams=_reduced(streams), seed=seed)


def _resolution(num_new: int, num_old: int, replay_share: float) -> int:
    """Parts of a mixture, so many that the smallest streams do not get much more than their due."""
    total = TOTAL_PARTS
    while total < _MAX_PARTS and (
        total * replay_share < _PARTS_A_STREAM * num_old
        or total * (1 - replay_share) < _PARTS_A_STREAM * num_new
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
