"""What counts as a near-duplicate."""

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from infra.bounds import Bounds
from storage.near_duplicate_segment import SignatureScheme
from training.config import FORBID_UNKNOWN

_METHOD = 1
"""Raise it when the same text gives another signature than before."""
_CHANCE = 1 / 256
"""That a byte of two different minima is equal."""
_MAX_PERMUTATIONS = 1024
_MIN_RECALL = 0.9


@dataclass(frozen=True, kw_only=True, slots=True)
class NearDuplicateConfig:
    """Documents that repeat most of an earlier one are dropped. Leave the section out for none.

    The defaults are what FineWeb was made with (Penedo et al. 2024, arXiv:2406.17557): shingles of
    5 words, 14 bands of 8.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN

    ngram: Annotated[int, Bounds(ge=1, le=100, unit="words")] = 5
    """In a row, a shingle; characters in scripts that are written without spaces."""
    bands: Annotated[int, Bounds(ge=1, le=256)] = 14
    """Two documents are compared when all minima of one band are equal."""
    rows: Annotated[int, Bounds(ge=1, le=64)] = 8
    """Minima a band; ``bands x rows`` is the number of permutations."""
    threshold: Annotated[float, Bounds(gt=0, le=1)] = 0.7
    """Share of shingles in common (Jaccard, estimated) from which the later of two is dropped. It
    may change at any time; the others only before a lineage's first refresh."""
    seed: Annotated[int, Bounds(ge=0)] = 1
    """Of the permutations."""

    def __post_init__(self) -> None:
        if self.scheme.permutations > _MAX_PERMUTATIONS:
            raise ValueError(
                f"bands {self.bands} x rows {self.rows} are {self.scheme.permutations:,} "
                f"permutations, of which at most {_MAX_PERMUTATIONS:,} are possible; lower one"
            )
        # Halfway to a copy the bands have to find nearly all, or the threshold promises too much.
        jaccard = (1 + self.threshold) / 2
        if self.found_at(jaccard) < _MIN_RECALL:
            raise ValueError(
                f"threshold {self.threshold:g} asks for more than {self.bands} bands of "
                f"{self.rows} rows can find: of pairs with {jaccard:g} in common only "
                f"{self.found_at(jaccard):.0%} would be compared; raise bands, lower rows or "
                "raise threshold"
            )

    @property
    def scheme(self) -> SignatureScheme:
        """What of it decides about signatures."""
        return SignatureScheme(
            method=_METHOD, ngram=self.ngram, bands=self.bands, rows=self.rows, seed=self.seed
        )

    @property
    def min_equal(self) -> int:
        """Equal bytes of two prints, of ``bands x rows``, that make near-duplicates.

        Bytes of different minima are equal by chance too, so the share of equal ones is not quite
        the Jaccard similarity (Li and Koenig 2010, arXiv:0910.3349).
        """
        share = _CHANCE + self.threshold * (1 - _CHANCE)
        # Nothing that is on the threshold is lost to rounding.
        return math.ceil(share * self.scheme.permutations - 1e-9)

    def likeness(self, equal: int) -> float:
        """Jaccard similarity that so many equal bytes of two prints stand for."""
        share = equal / self.scheme.permutations
        return max(0.0, (share - _CHANCE) / (1 - _CHANCE))

    def found_at(self, jaccard: float) -> float:
        """Probability that two documents with so much in common are compared."""
        return 1 - (1 - jaccard**self.rows) ** self.bands


PRESETS = {"fineweb": NearDuplicateConfig()}
"""Values of the section that have a name."""
