"""How small an effect can be shown, known before anything is trained: pure."""

from collections.abc import Sequence

import numpy as np

from tasks.judge.leverage import leverage
from tasks.judge.student import shift_for_power

POWER = 0.8
"""An effect that is called detectable is shown with this probability."""


def detectable_effect(
    targets_by_cluster: Sequence[int], spread: float, alpha: float
) -> float | None:
    """Distance from its margin at which a difference is shown with a probability of 80 %.

    Args:
        targets_by_cluster: Scored tokens of each cluster; clusters without any do not count.
        spread: Assumed standard deviation, over clusters, of a cluster's difference of two models,
            in nats per token; 0 or more.
        alpha: Level of the one-sided bound. Where Holm's correction counts, for a FAIL, the level
            divided by the number of tests.

    Returns:
        Nats per token; None where the clusters are too few, or one holds too much of the targets,
        for any effect to be shown.

    Raises:
        ValueError: The spread is negative or not a number.
    """
    if not spread >= 0:
        raise ValueError(f"expected a spread of at least 0 nats per token, got {spread:g}")
    targets = np.array([size for size in targets_by_cluster if size > 0], dtype=np.float64)
    if targets.size < 2:
        return None
    found = leverage(targets)
    return shift_for_power(alpha, found.degrees_of_freedom, POWER) * found.error * spread
