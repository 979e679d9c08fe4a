"""Whether a model answers a task better than by guessing. Pure.

What is at chance level has nothing to lose, so it cannot guard anything: its score moves by luck
alone (docs/decisions/0026).
"""

import math
from collections import defaultdict
from collections.abc import Sequence

from training.items.item import Item
from training.items.score import ItemScore

_FLOOR = 0.02
"""Share of right answers that counts as none where an answer has to be written: what endings and
common words give by themselves."""
_ALPHA = 0.05
"""Level of the one-sided test."""


def chance_of(item: Item) -> float:
    """Probability of a right answer by guessing."""
    if item.kind in ("multiple_choice", "minimal_pair"):
        return 1 / len(item.choices)
    return _FLOOR


def chance_level(items: Sequence[Item]) -> float:
    """Expected share of right answers by guessing."""
    return math.fsum(map(chance_of, items)) / len(items)


def p_by_chance(items: Sequence[Item], scores: Sequence[ItemScore]) -> float:
    """How likely so many right answers are, at least, for who guesses.

    By the normal approximation with a continuity correction. Where items share clusters, the
    variance between clusters is taken if it is larger: items that are right together are worth
    fewer.
    """
    chances = {item.id: chance_of(item) for item in items}
    by_cluster: defaultdict[str, float] = defaultdict(float)
    for score in scores:
        by_cluster[score.cluster] += score.is_correct - chances[score.item]
    above = math.fsum(by_cluster.values())
    variance = math.fsum(chance * (1 - chance) for chance in chances.values())
    if len(by_cluster) < len(scores):
        variance = max(variance, math.fsum(part**2 for part in by_cluster.values()))
    return math.erfc((above - 0.5) / math.sqrt(2 * variance)) / 2


def at_chance(items: Sequence[Item], scores: Sequence[ItemScore]) -> bool:
    """Whether nothing shows that the answers are better than guesses."""
    return p_by_chance(items, scores) > _ALPHA


def why_informing(
    items: Sequence[Item], scores: Sequence[ItemScore], model: str, *, informs_only: bool
) -> str:
    """Why a task guards nothing, for people; "" when it may guard.

    Args:
        items: At least one.
        scores: What the model in use answered to them.
        model: What that model is called.
        informs_only: It is configured so.
    """
    if informs_only:
        return "it is configured to inform only"
    if not at_chance(items, scores):
        return ""
    right = sum(score.is_correct for score in scores) / len(items)
    return (
        f"at chance level: {model} has {right:.1%} of {len(items)} items right, guessing gives "
        f"{chance_level(items):.1%}"
    )
