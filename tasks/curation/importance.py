"""Importance weights towards a target: DSIR (Xie et al. 2023, arXiv:2302.03169).

The weight of a document is the probability of its words and pairs of words in the target, divided
by that in random documents, each a bag of hashed n-grams. The published method resamples by it
(adds Gumbel noise to the logarithm and takes the largest); here only the logarithm is stored.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tasks.curation.scorer import Batch, Numbers, Read, Scorer, nothing_drops
from tasks.near_duplicates.units import units_of
from training.config import FORBID_UNKNOWN

COLUMNS = {"importance_log_weight": "float64", "importance_ngrams": "int64"}
"""The logarithm, a sum over as many n-grams as the second says. It grows with the length: divide it
to compare documents of different length."""

_BUCKETS = 1 << 14
"""About the paper's 10,000."""
_PSEUDO_COUNT = 1.0
"""Of each bucket: without one, an n-gram that a small target lacks punishes every long document."""
_BATCH_DOCUMENTS = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportanceRules:
    """Importance weights towards a target (DSIR); they drop nothing."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN

    target: str
    """Texts like which more is wanted: what a source's ``uri`` may be. Not an evaluation set."""
    random: str
    """Documents as the domain's sources give them."""


def log_ratios(target: Iterable[str], random: Iterable[str]) -> NDArray[np.float64]:
    """``float64[buckets]``: log of an n-gram's probability in the target over that in random."""
    shares: list[NDArray[np.float64]] = []
    for texts in (target, random):
        counts = _counts(iter(texts)) + _PSEUDO_COUNT
        shares.append(counts / counts.sum())
    return np.log(shares[0]) - np.log(shares[1])


def log_weights(texts: Sequence[str], ratios: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
    """The columns ``COLUMNS``."""
    from tasks.curation.linear import values_of  # noqa: PLC0415  imports numba

    units, ends = units_of(texts)
    means = np.empty(len(texts))
    values_of(units, ends, ratios, 0.0, means)
    ngrams = np.maximum(2 * np.diff(ends, prepend=0) - 1, 0)
    return {"importance_log_weight": means * ngrams, "importance_ngrams": ngrams}


def _counts(texts: Iterator[str]) -> NDArray[np.float64]:
    from tasks.curation.linear import count_ngrams  # noqa: PLC0415  imports numba

    counts = np.zeros(_BUCKETS)
    while batch := list(islice(texts, _BATCH_DOCUMENTS)):
        count_ngrams(*units_of(batch), counts)
    return counts


def _learn(rules: ImportanceRules, read: Read) -> NDArray[np.float64]:
    return log_ratios(read(rules.target), read(rules.random))


def _score(batch: Batch, _rules: ImportanceRules) -> tuple[Sequence[str], Numbers]:
    return batch.texts, log_weights(batch.texts, batch.learned)


SCORER = Scorer("importance", COLUMNS, _score, nothing_drops, _learn)
