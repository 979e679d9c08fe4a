"""A quality classifier of the lineage's own: is a text more like good ones or like random ones?

As GPT-3's (Brown et al. 2020, arXiv:2005.14165, appendix A), DCLM's (Li et al. 2024,
arXiv:2406.11794) and fastText: logistic regression on hashed words and pairs of words. It learns
what tells the two sets apart, be it the quality, the topic or where they come from; what they
differ in by accident it takes for quality.
"""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from infra.bounds import Bounds
from tasks.curation.learned import sample
from tasks.curation.scorer import Batch, Numbers, Read, Scorer, Verdicts
from tasks.near_duplicates.units import units_of
from training.config import FORBID_UNKNOWN

logger = logging.getLogger(__name__)

COLUMNS = {"quality_score": "float64", "quality_rank": "float64"}
"""The score, from 0 to 1 (at 0.5 a text is as likely good as random); the share of random documents
that score at least as well."""

_BITS = 18
"""Of the weights: 262,144. Twenty gave the same areas under the curve at a third of the speed."""
_RATE, _PASSES = 0.5, 5
_TRAINED_CHARACTERS = 10_000
_HELD_OUT = 5
"""One of so many documents is not learned from; what the model is worth is measured on those."""
_LEAST_DOCUMENTS = 100
_WORTHLESS = 0.6
"""Area under the curve below which the two sets can hardly be told apart."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QualityRules:
    """A classifier learned from good and random documents. Without a threshold it only scores."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN

    reference: str
    """Good documents: what a source's ``uri`` may be; of JSONL the field ``text``. At least 100."""
    random: str
    """Documents as the domain's sources give them, good and bad. At least 100."""
    keep: Annotated[float | None, Bounds(gt=0, le=1)] = None
    """Share of random documents that is kept, the best of them: 0.1 for DCLM's data."""
    min_score: Annotated[float | None, Bounds(ge=0, le=1)] = None
    """Least score; 0.5 is as likely good as random."""
    documents: Annotated[int, Bounds(ge=_LEAST_DOCUMENTS, le=200_000, unit="documents")] = 20_000
    """Learned from of each kind at most, a fair sample; some 10 kB of memory each."""


@dataclass(frozen=True, slots=True)
class QualityModel:
    """A trained classifier."""

    weights: NDArray[np.float64]
    """``float64[2 ** 18]``."""
    bias: float
    random_values: NDArray[np.float64]
    """Sorted values of the random documents that were not learned from."""
    auc: float
    """How often a good document scores above a random one, both not learned from."""


def train_quality(reference: Sequence[str], random: Sequence[str]) -> QualityModel:
    """A classifier of two sets of texts, to the bit the same for the same texts in any order."""
    from tasks.curation.linear import fit  # noqa: PLC0415  imports numba

    labelled = [(_key(text), text, 1.0) for text in reference]
    labelled += [(_key(text), text, 0.0) for text in random]
    labelled.sort()
    learned = [item for item in labelled if item[0] % _HELD_OUT]
    units, ends = units_of([text for _, text, _ in learned])
    targets = np.array([target for _, _, target in learned])
    # The two kinds weigh the same, however many there are of each.
    good = targets.mean()
    masses = np.where(targets == 1, 0.5 / good, 0.5 / (1 - good))
    weights = np.zeros(1 << _BITS)
    bias = float(fit(units, ends, targets, masses, _RATE, _PASSES, weights))
    left = [item for item in labelled if not item[0] % _HELD_OUT]
    values = _values([text for _, text, _ in left], weights, bias)
    is_good = np.array([target == 1 for _, _, target in left])
    random_values = np.sort(values[~is_good])
    return QualityModel(weights, bias, random_values, _auc(values[is_good], random_values))


def score_quality(texts: Sequence[str], model: QualityModel) -> dict[str, NDArray[np.float64]]:
    """The columns ``COLUMNS``."""
    from tasks.curation.linear import logistic  # noqa: PLC0415  imports numba

    values = _values(texts, model.weights, model.bias)
    below = np.searchsorted(model.random_values, values, side="left")
    count = len(model.random_values)
    return {
        "quality_score": np.array([logistic(value) for value in values], np.float64),
        "quality_rank": (count - below) / count,
    }


def quality_verdicts(numbers: Numbers, rules: QualityRules) -> Verdicts:
    """Which documents are not good enough."""
    if rules.keep is not None:
        yield "quality:low_rank", numbers["quality_rank"] > rules.keep
    if rules.min_score is not None:
        yield "quality:low_score", numbers["quality_score"] < rules.min_score


def _learn(rules: QualityRules, read: Read) -> QualityModel:
    kinds: list[list[str]] = []
    for field, uri in (("reference", rules.reference), ("random", rules.random)):
        texts = sample(read(uri), rules.documents, _TRAINED_CHARACTERS)
        if len(texts) < _LEAST_DOCUMENTS:
            raise ValueError(
                f"quality.{field}: {uri} has {len(texts)} different documents, at least "
                f"{_LEAST_DOCUMENTS} are needed to learn from; give more"
            )
        kinds.append(texts)
    model = train_quality(*kinds)
    logger.log(
        logging.WARNING if model.auc < _WORTHLESS else logging.INFO,
        "quality classifier of %s: %d good and %d random documents; %.3f of the pairs that it did "
        "not learn from are in the right order",
        rules.reference,
        *map(len, kinds),
        model.auc,
    )
    return model


def _score(batch: Batch, _rules: QualityRules) -> tuple[Sequence[str], Numbers]:
    return batch.texts, score_quality(batch.texts, batch.learned)


def _values(texts: Sequence[str], weights: NDArray[np.float64], bias: float) -> NDArray[np.float64]:
    from tasks.curation.linear import values_of  # noqa: PLC0415  imports numba

    values = np.empty(len(texts))
    units, ends = units_of(texts)
    values_of(units, ends, weights, bias, values)
    return values


def _auc(good: NDArray[np.float64], random_values: NDArray[np.float64]) -> float:
    """Share of pairs in the right order, ties half; of sorted random values."""
    below = np.searchsorted(random_values, good, side="left")
    not_above = np.searchsorted(random_values, good, side="right")
    return float((below + not_above).sum() / (2 * len(good) * len(random_values)))


def _key(text: str) -> int:
    """A hash of 64 bits, by which texts are ordered and held out."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


SCORER = Scorer("quality", COLUMNS, _score, quality_verdicts, _learn)
