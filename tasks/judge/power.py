"""How small an effect can be shown, known before anything is trained: pure."""

from collections.abc import Sequence

import numpy as np

from tasks.judge.leverage import leverage
from tasks.judge.student import shift_for_power, upper_quantile

POWER = 0.8
"""An effect that is called detectable is shown with this probability."""
MAX_SHARE = 0.999
"""One cluster with a larger share of the targets is all there is: nothing can be shown."""


def detectable_effect(
    targets_by_cluster: Sequence[int], spread: float, alpha: float
) -> float | None:
    """Distance from its margin at which a difference is shown with a probability of 80 %.

    For right and wrong answers the targets are a cluster's items, and the spread is the root of the
    share of items on which the two models differ, where every cluster is one item.

    Args:
        targets_by_cluster: Scored tokens of each cluster; clusters without any do not count.
        spread: Assumed standard deviation, over clusters, of a cluster's difference of two models,
            in nats per token; 0 or more. Measured on other clusters, it is best weighted by the
            squares of their targets, as their part in the error is: large ones differ less.
        alpha: Level of the one-sided bound. Where Holm's correction counts, for a FAIL, the level
            divided by the number of tests.

    Returns:
        Nats per token; None where there are fewer than three clusters, or one holds nearly all.

    Raises:
        ValueError: The spread is negative or not a number.
    """
    if not spread >= 0:
        raise ValueError(f"expected a spread of at least 0 nats per token, got {spread:g}")
    targets = np.array([size for size in targets_by_cluster if size > 0], dtype=np.float64)
    if targets.size < 3 or targets.max() > MAX_SHARE * targets.sum():
        return None
    found = leverage(targets)
    # The other of the two bounds, the bootstrap's, is often the wider one with few clusters whose
    # effects have heavy tails: measured on real code, the power is that of a bound so much wider.
    critical = upper_quantile(alpha, found.degrees_of_freedom) * (1 + 2 / targets.size)
    return shift_for_power(critical, found.degrees_of_freedom, POWER) * found.error * spread
