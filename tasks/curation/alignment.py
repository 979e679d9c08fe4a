"""Alignment by compression: ZIP-FIT (Obbad et al. 2024, arXiv:2410.18194).

How much better a document compresses together with texts of a target than alone: 1 less the mean of
the normalised compression distances to each, (C(both) - min(C)) / max(C) with C the packed length.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from infra.bounds import Bounds
from tasks.curation.learned import sample
from tasks.curation.scorer import Batch, Numbers, Read, Scorer, nothing_drops
from training.config import FORBID_UNKNOWN

COLUMNS = {"alignment": "float64"}
"""From 0 to 1, or nearly: short texts have the larger ones, so compare documents of like length."""

_LEVEL = 6
"""Of DEFLATE. At level 0, with which the method was published, nothing is packed and the score is
the length."""
_TARGET_CHARACTERS, _MOST_BYTES = 4_000, 16_000
"""Together within the 32 KiB in which DEFLATE finds repeats."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AlignmentRules:
    """Alignment with a target by compression (ZIP-FIT); drops nothing. Slow: 2 MB/s of a core."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN

    target: str
    """Texts like which more is wanted: what a source's ``uri`` may be. Not an evaluation set."""
    documents: Annotated[int, Bounds(ge=1, le=256, unit="documents")] = 16
    """Texts of the target that each document is packed with, a fair sample."""


def align(texts: Sequence[str], targets: Sequence[str]) -> NDArray[np.float64]:
    """``float64[texts]``; of a long text its beginning counts."""
    begun = [_begun(target.encode()) for target in targets]
    found = np.empty(len(texts))
    for row, text in enumerate(texts):
        body = text.encode()[:_MOST_BYTES]
        alone = len(zlib.compress(body, _LEVEL, -zlib.MAX_WBITS))
        distances = 0.0
        for packer, packed_length, length in begun:
            # The target first: its part is packed once for all documents.
            after = packer.copy()
            both = packed_length + len(after.compress(body)) + len(after.flush())
            distances += (both - min(alone, length)) / max(alone, length)
        found[row] = 1 - distances / len(begun)
    return found


def _begun(target: bytes) -> tuple[Any, int, int]:
    """A packer that has seen the target, the bytes it gave so far, and those it needs for all."""
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    given = len(packer.compress(target))
    return packer, given, given + len(packer.copy().flush())


def _learn(rules: AlignmentRules, read: Read) -> list[str]:
    targets = sample(read(rules.target), rules.documents, _TARGET_CHARACTERS)
    if not targets:
        raise ValueError(f"alignment.target: {rules.target} holds no document; name one that does")
    return targets


def _score(batch: Batch, _rules: AlignmentRules) -> tuple[Sequence[str], Numbers]:
    return batch.texts, {"alignment": align(batch.texts, batch.learned)}


SCORER = Scorer("alignment", COLUMNS, _score, nothing_drops, _learn)
