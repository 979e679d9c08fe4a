"""What unequal clusters do to the error of a ratio of sums: leverage and degrees of freedom.

A ratio of sums is a mean of the clusters' own ratios, weighted by their targets. A cluster that
holds much of the targets pulls the mean towards itself, so its residual looks too small, and the
estimated error rests on few clusters. Both are repaired as Bell and McCaffrey (2002) do for
regressions: residuals are rescaled so that the variance is unbiased when clusters differ in nothing
but their size (CR2), and Student's t gets the degrees of freedom by which that estimate varies
(Satterthwaite's approximation).
"""

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Leverage:
    """Of a ratio of sums over clusters with given targets."""

    shrinkage: FloatArray
    """``float64[clusters]``: expected square of a cluster's residual over the clusters' variance,
    in (0, 1 + 1 / effective_clusters]."""
    error: float
    """Standard error of the ratio when the clusters' own ratios have a standard deviation of 1."""
    degrees_of_freedom: float
    """Of the estimated error: clusters - 1 when all are of one size, fewer otherwise; at least 1.
    """

    @property
    def effective_clusters(self) -> float:
        """As many clusters of one size would give the same error."""
        return 1 / self.error**2


def leverage(targets: FloatArray) -> Leverage:
    """Leverage of at least two clusters with the given positive ``targets``."""
    weights = targets / targets.sum()
    squares = float(weights @ weights)
    shrinkage = 1 - 2 * weights + squares
    # The estimate is a quadratic form in the clusters' ratios; its variance, by the trace of its
    # square, is that of sum(scales * residuals**2). Written out, it takes no clusters x clusters.
    scales = weights**2 / shrinkage
    total, once = float(scales.sum()), float(scales @ weights)
    twice = float(scales @ weights**2)
    cross = (squares * total) ** 2 + 2 * total * twice + 2 * once**2 - 4 * squares * total * once
    own = float(scales**2 @ (shrinkage**2 - (squares - 2 * weights) ** 2))
    return Leverage(shrinkage, math.sqrt(squares), max(1.0, squares**2 / (own + cross)))
