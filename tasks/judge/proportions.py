"""Bounds for right and wrong answers: two models on the same items, and how often one flips.

Where every cluster is one item the difference of two accuracies is bounded by inverting the score
test for paired proportions (Tango 1998; Nam 1997 for the non-inferiority test), which keeps its
level where nearly all items agree. Items of one cluster are right and wrong together, so elsewhere
the bound by cluster counts as well, and the wider of the two is taken. Pure; all values are shares
of items.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

from tasks.judge.bootstrap import RatioSample, sample_ratio
from tasks.judge.power import POWER

_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterAnswers:
    """Both models' answers to the items of one cluster."""

    items: int
    negative_flips: int
    """Right before, wrong now."""
    positive_flips: int
    """Wrong before, right now."""


@dataclass(frozen=True, slots=True, eq=False)
class ShareSample:
    """A share of items, or a difference of two, with its bounds and p-values."""

    estimate: float
    p_low: Callable[[float], float]
    """p-value of "the share is at most this", rising."""
    p_high: Callable[[float], float]
    """p-value of "the share is at least this", falling."""
    by_cluster: RatioSample | None
    """None where every cluster is one item, or clusters say nothing of their error."""
    smallest: float
    """What the share can not lie below: -1 for a difference."""
    is_exact: bool = False
    """The estimate is the truth, and both bounds."""

    def p_above(self, limit: float) -> float:
        """p-value of "the share is at most ``limit``": small means shown to lie above."""
        found = self.p_low(limit)
        return found if self.by_cluster is None else max(found, self.by_cluster.p_above(limit))

    def p_below(self, limit: float) -> float:
        """p-value of "the share is at least ``limit``": small means shown to lie below."""
        found = self.p_high(limit)
        return found if self.by_cluster is None else max(found, self.by_cluster.p_below(limit))

    def lower(self, alpha: float) -> float | None:
        """The share lies above this with confidence ``1 - alpha``; None where clusters are few."""
        if self.is_exact:
            return self.estimate
        found = _crossing(lambda share: self.p_low(share) - alpha, self.smallest, self.estimate)
        if self.by_cluster is None:
            return found
        bound = self.by_cluster.lower(alpha)
        return None if bound is None else max(self.smallest, min(found, bound))

    def upper(self, alpha: float) -> float | None:
        """The share lies below this with confidence ``1 - alpha``; None where clusters are few."""
        if self.is_exact:
            return self.estimate
        found = _crossing(lambda share: alpha - self.p_high(share), self.estimate, 1.0)
        if self.by_cluster is None:
            return found
        bound = self.by_cluster.upper(alpha)
        return None if bound is None else min(1.0, max(found, bound))

    def detectable_above(self, alpha: float) -> float | None:
        """How far above a limit the share is shown to be so with a probability of 80 %."""
        if self.is_exact:
            return 0.0
        bound = self.lower(alpha)
        if bound is None:
            return None
        quantiles = [_NORMAL.inv_cdf(1 - alpha), _NORMAL.inv_cdf(POWER)]
        effect = (self.estimate - bound) * sum(quantiles) / quantiles[0]
        if self.by_cluster is None:
            return effect
        return max(effect, self.by_cluster.detectable_above(alpha) or 0.0)


def accuracy_difference(
    clusters: dict[str, ClusterAnswers], *, is_same_model: bool, resamples: int
) -> ShareSample:
    """The accuracy of the new model minus that of the old; at least one item.

    Args:
        clusters: By name.
        is_same_model: All answers and their probabilities agree: the difference is exactly 0.
            Without this, no flip among 20 items says little about the next 20.
        resamples: Of the bounds by cluster.
    """
    if is_same_model:
        return _exactly_zero(smallest=-1.0)
    negative, positive, items = _totals(clusters)
    by_cluster = _by_cluster(
        {
            name: (float(answers.positive_flips - answers.negative_flips), answers.items)
            for name, answers in clusters.items()
        },
        resamples,
    )
    scale = _scale(clusters, by_cluster)
    counts = (scale * positive, scale * negative, scale * items)

    return ShareSample(
        (positive - negative) / items,
        lambda limit: _NORMAL.cdf(-_paired_score(*counts, limit, -0.5)),
        lambda limit: _NORMAL.cdf(_paired_score(*counts, limit, 0.5)),
        _unless_exact(by_cluster),
        -1.0,
    )


def negative_flip_share(
    clusters: dict[str, ClusterAnswers], *, is_same_model: bool, resamples: int
) -> ShareSample:
    """The share of items that the old model had right and the new one has wrong.

    The score test for one proportion, with a continuity correction: flips are rare, and without it
    a few of them are taken for evidence too early.
    """
    if is_same_model:
        return _exactly_zero(smallest=0.0)
    negative, _, items = _totals(clusters)
    by_cluster = _by_cluster(
        {
            name: (float(answers.negative_flips), answers.items)
            for name, answers in clusters.items()
        },
        resamples,
    )
    scale = _scale(clusters, by_cluster)
    found, count = scale * negative, scale * items

    def above(limit: float) -> float:
        return _NORMAL.cdf(-_score(found - 0.5, count, limit))

    def below(limit: float) -> float:
        return _NORMAL.cdf(_score(found + 0.5, count, limit))

    return ShareSample(negative / items, above, below, _unless_exact(by_cluster), 0.0)


def _totals(clusters: dict[str, ClusterAnswers]) -> tuple[int, int, int]:
    return (
        sum(answers.negative_flips for answers in clusters.values()),
        sum(answers.positive_flips for answers in clusters.values()),
        sum(answers.items for answers in clusters.values()),
    )


def _by_cluster(clusters: dict[str, tuple[float, int]], resamples: int) -> RatioSample | None:
    if all(items == 1 for _, items in clusters.values()):
        return None
    return sample_ratio(clusters, resamples=resamples)


def _unless_exact(sample: RatioSample | None) -> RatioSample | None:
    # Clusters that all have the same share, such as no flip at all, show no error of their own.
    return None if sample is None or sample.error == 0.0 else sample


def _scale(clusters: dict[str, ClusterAnswers], sample: RatioSample | None) -> float:
    """What an item counts for: less than 1 where clusters say nothing of their error.

    Then all items of a cluster may be one answer: as many count as there are clusters, the fewer
    the more their sizes differ.
    """
    if sample is None or sample.error != 0.0:
        return 1.0
    sizes = [answers.items for answers in clusters.values()]
    return sum(sizes) / sum(size**2 for size in sizes)


def _exactly_zero(*, smallest: float) -> ShareSample:
    return ShareSample(
        0.0,
        lambda limit: 0.0 if limit < 0.0 else 1.0,
        lambda limit: 0.0 if limit > 0.0 else 1.0,
        None,
        smallest,
        is_exact=True,
    )


def _paired_score(
    positive: float, negative: float, items: float, difference: float, correction: float
) -> float:
    """The score statistic of "the true difference is ``difference``", standard normal if it is.

    The share of negative flips is estimated under that hypothesis, from a quadratic equation (Tango
    1998). ``correction`` is added to the count of positive minus negative flips: half an item
    against the evidence, without which 60 items show too much too often.
    """
    half = (2 * items - positive + negative) * difference - positive - negative
    root = max(0.0, half**2 + 8 * items * negative * difference * (1 - difference))
    flips = (math.sqrt(root) - half) / (4 * items)
    variance = items * (2 * flips + difference * (1 - difference))
    distance = positive - negative - items * difference + correction
    if variance <= 0.0:
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance / math.sqrt(variance)


def _score(found: float, items: float, share: float) -> float:
    variance = items * share * (1 - share)
    distance = found - items * share
    return distance / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, distance)


def _crossing(rising: Callable[[float], float], low: float, high: float) -> float:
    """Where ``rising`` crosses 0 between ``low`` and ``high``; the end where it does not."""
    if rising(low) >= 0:
        return low
    if rising(high) < 0:
        return high
    while high - low > 1e-12:
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return high
