"""Length and repetition of a text in a few whole numbers, to select by later."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tasks.curation.scorer import Batch, Numbers, Scorer, counted, nothing_drops, whole_numbers
from tasks.near_duplicates.units import units_of
from training.config import FORBID_UNKNOWN

PREFIX = "text_"
COLUMNS = (
    "characters", "bytes", "compressed_bytes", "lines", "words", "distinct_words", "distinct_pairs",
)  # fmt: skip
"""Of UTF-8 and of that packed by zstandard, which tells repetition of any kind; lines that hold
something; folded words (characters in scripts without spaces) and pairs of them."""

_PAIR_STEP = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, kw_only=True, slots=True)
class StatisticsRules:
    """Counts that drop nothing."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN


def count_statistics(texts: Sequence[str]) -> NDArray[np.int64]:
    """``int64[texts, len(COLUMNS)]``."""
    import zstandard  # noqa: PLC0415  the scheduler imports this module

    packer = zstandard.ZstdCompressor(level=3)
    units, ends = units_of(texts)
    counts = np.zeros((len(texts), len(COLUMNS)), np.int64)
    start = 0
    for row, (text, end) in enumerate(zip(texts, ends.tolist(), strict=True)):
        body = text.encode()
        inside = units[start:end]
        pairs = (inside[:-1] * _PAIR_STEP) ^ inside[1:]
        counts[row] = (
            len(text),
            len(body),
            len(packer.compress(body)),
            sum(1 for line in text.split("\n") if line and not line.isspace()),
            len(inside),
            len(np.unique(inside)),
            len(np.unique(pairs)),
        )
        start = end
    return counts


def _score(batch: Batch, _rules: StatisticsRules) -> tuple[Sequence[str], Numbers]:
    return batch.texts, counted(PREFIX, COLUMNS, count_statistics(batch.texts))


SCORER = Scorer("statistics", whole_numbers(PREFIX, COLUMNS), _score, nothing_drops)
