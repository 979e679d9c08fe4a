"""Caps on shares: how much of a domain's new text may be synthetic, or come from one source.

Shares are of the tokens that one refresh keeps of the domain. Which documents go is decided by
their content digests, a fixed order that nothing about them has a part in.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from infra.bounds import Bounds
from training.config import FORBID_UNKNOWN

SYNTHETIC_SHARE = "synthetic_share"
SOURCE_SHARE = "source_share"
"""Reasons of documents dropped for a cap."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShareCaps:
    """Largest shares of the tokens that a refresh keeps of a domain; what is not set is not capped.

    What is beyond a cap is dropped for good, so that no single refresh is flooded.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN

    synthetic: Annotated[float | None, Bounds(ge=0, lt=1)] = None
    """Of synthetic documents. Where a refresh brings no real ones, all of them are dropped."""
    source: Annotated[float | None, Bounds(gt=0, lt=1)] = None
    """Of each source. The domain needs so many sources that it can be kept: where a refresh brings
    documents of fewer, all of them are dropped."""


NO_CAPS = ShareCaps()


@dataclass(frozen=True, slots=True)
class KeptTexts:
    """What counts of the documents of a refresh that no earlier stage dropped, an entry each."""

    domains: NDArray[np.int64]
    """Codes from 0."""
    sources: NDArray[np.int64]
    """Codes from 0."""
    is_synthetic: NDArray[np.bool_]
    tokens: NDArray[np.int64]
    """Of the text, without framing; at least 0."""
    digests: NDArray[np.bytes_]
    """``S16``, of the contents."""


def cap_shares(texts: KeptTexts, caps: Mapping[int, ShareCaps]) -> NDArray[np.object_]:
    """Why each document is dropped: "", ``SYNTHETIC_SHARE`` or ``SOURCE_SHARE``.

    After it no share is above its cap, exactly (a cap of 0.3 is three tenths). With one kind of cap
    set, adding back any one dropped document would break it; with both, what one cap has dropped
    may fit again after the other, and stays dropped. Pure, and independent of the order of
    documents with different digests. Leave documents out of ``texts`` that will be held out: caps
    are on training text.

    Args:
        texts: Of one refresh.
        caps: By code of the domain; a domain that is not there has none.
    """
    reasons = np.full(len(texts.tokens), "", object)
    order = np.argsort(texts.digests, kind="stable")
    for domain, of_domain in sorted(caps.items()):
        rows = order[texts.domains[order] == domain]
        if len(rows):
            _cap_domain(texts, rows, of_domain, reasons)
    return reasons


def _cap_domain(
    texts: KeptTexts, rows: NDArray[np.intp], caps: ShareCaps, reasons: NDArray[np.object_]
) -> None:
    """Drop from ``rows``, those of one domain in their order, until no cap is broken.

    Each turn takes from one group no more than it must, so what is kept shrinks with every turn.
    """
    groups: list[tuple[str, Fraction, NDArray[np.intp]]] = []
    if caps.synthetic is not None:
        groups.append((SYNTHETIC_SHARE, _exact(caps.synthetic), rows[texts.is_synthetic[rows]]))
    if caps.source is not None:
        share, sources = _exact(caps.source), texts.sources[rows]
        of_sources = [rows[sources == source] for source in np.unique(sources)]
        groups += [(SOURCE_SHARE, share, group) for group in of_sources]
        limit = _water_level([int(texts.tokens[group].sum()) for group in of_sources], share)
        for group in of_sources:
            _limit(texts, group, SOURCE_SHARE, limit, reasons)
    while True:
        total = int(texts.tokens[rows[reasons[rows] == ""]].sum())
        most: tuple[int, str, NDArray[np.intp], int] | None = None
        for reason, share, group in groups:
            kept = int(texts.tokens[group[reasons[group] == ""]].sum())
            if kept > share * total:
                # kept <= share x (others + kept), solved for kept.
                limit = int(share * (total - kept) / (1 - share))
                if most is None or kept - limit > most[0]:
                    most = kept - limit, reason, group, limit
        if most is None:
            return
        _, reason, group, limit = most
        _limit(texts, group, reason, limit, reasons)


def _water_level(sizes: list[int], share: Fraction) -> int:
    """What no source can have more of, whatever documents it is made of; it spares many turns.

    Where the ``m`` largest of ``sizes`` are cut to ``share`` of the whole, the whole is what the
    others have, divided by ``1 - m x share``.
    """
    largest = sorted(sizes, reverse=True)
    rest = sum(largest)
    for count, size in enumerate(largest):
        left = 1 - count * share
        if left <= 0:
            return 0
        if size <= share * rest / left:
            # The first count of them are above the level, and this one is not.
            return int(share * rest / left)
        rest -= size
    return 0


def _limit(
    texts: KeptTexts,
    group: NDArray[np.intp],
    reason: str,
    limit: int,
    reasons: NDArray[np.object_],
) -> None:
    """Keep of a group what fits into ``limit``, of all that nothing but ``reason`` has dropped."""
    eligible = group[(reasons[group] == "") | (reasons[group] == reason)]
    reasons[eligible] = reason
    reasons[eligible[_that_fit(texts.tokens[eligible], limit)]] = ""


def _that_fit(tokens: NDArray[np.int64], limit: int) -> NDArray[np.bool_]:
    """One after the other what fits into the rest of ``limit``; what does not is passed over."""
    fits = np.zeros(len(tokens), np.bool_)
    places, left = np.arange(len(tokens)), limit
    while len(places):
        places = places[tokens[places] <= left]
        sums = np.cumsum(tokens[places])
        count = int(np.searchsorted(sums, left, side="right"))
        fits[places[:count]] = True
        left -= int(sums[count - 1]) if count else 0
        places = places[count:]
    return fits


def _exact(share: float) -> Fraction:
    """The share as it is written, not as binary digits come near it."""
    return Fraction(repr(share))
