"""How small a fall in accuracy a task can rule out. Pure.

A task may guard only if an unchanged model will be seen to be one: else every verdict would wait
for a person. What two models differ in by luck is taken from earlier pairs that answered the same
items, and from nothing that depends on the candidate.
"""

import math
from collections import defaultdict
from collections.abc import Sequence

from training.items.score import ItemScore

_STANDARD_ERRORS = 1.6449 + 1.6449
"""One-sided at 5 %, with a probability of 95 %: several tasks guard together, and each that fails
to show what is not there makes a verdict wait for a person."""
_DISAGREEMENT = 0.25
"""Share of items that two models answer differently, before anything is known: of young models
that still change much; grown ones differ in a tenth."""
_CORRELATION = 0.05
"""Between items of one cluster, before anything is known."""

Pair = tuple[Sequence[ItemScore], Sequence[ItemScore]]


def detectable_fall(items: int, clusters: int, earlier: Sequence[Pair]) -> float:
    """The fall, as a share of items, that would be ruled out with a probability of 95 %.

    Args:
        items: Of the task.
        clusters: That they come in.
        earlier: Answers of versions and of those that they were compared with.
    """
    if not earlier:
        design_effect = 1 + (items / clusters - 1) * _CORRELATION
        variance = _DISAGREEMENT * design_effect / items
    else:
        variance = sum(map(_variance, earlier)) / len(earlier)
    # Two models that have never differed yet will differ in an item one day.
    return _STANDARD_ERRORS * math.sqrt(max(variance, 1 / items**2))


def _variance(pair: Pair) -> float:
    """Of the mean difference, from the sums by cluster around their mean."""
    differences: defaultdict[str, list[float]] = defaultdict(list)
    answers = {score.item: score.is_correct for score in pair[1]}
    for score in pair[0]:
        if score.item in answers:
            differences[score.cluster].append(float(score.is_correct) - answers[score.item])
    count = sum(map(len, differences.values()))
    if count == 0:
        return _DISAGREEMENT
    mean = sum(map(sum, differences.values())) / count
    return sum((sum(part) - mean * len(part)) ** 2 for part in differences.values()) / count**2
