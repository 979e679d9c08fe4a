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
    """``float64[clusters]``: expected square of the residual of a cluster's ratio over the variance
    of the clusters' ratios."""
    error: float
    """Standard error of the ratio when the clusters' own ratios have a standard deviation of 1."""
    degrees_of_freedom: float
    """Of the estimated error: clusters - 1 when all are of one size, fewer otherwise; at least 1.

    Between two extremes, the geometric mean: a cluster's ratio varies as much whatever its size,
    or as one over its targets. The first alone is too careful (real clusters' ratios do vary less
    when they are large), the second alone too bold.
    """


def leverage(targets: FloatArray) -> Leverage:
    """Leverage of at least two clusters with the given positive ``targets``."""
    weights = targets / targets.sum()
    squares = float(weights @ weights)
    shrinkage = (1 - weights) ** 2 + np.maximum(squares - weights**2, 0.0)
    degrees = math.sqrt(_degrees_by_cluster(weights, shrinkage) * _degrees_by_target(weights))
    return Leverage(shrinkage, math.sqrt(squares), max(1.0, degrees))


def _degrees_by_cluster(weights: FloatArray, shrinkage: FloatArray) -> float:
    """Degrees of freedom when ratios of all clusters have one variance.

    The estimated variance is a quadratic form in the ratios: its trace, squared, over the trace of
    its square. Written out, it takes no matrix of clusters x clusters.
    """
    squares = float(weights @ weights)
    scales = weights**2 / shrinkage
    total, once, twice = (float(scales @ weights**power) for power in (0, 1, 2))
    cross = (squares * total) ** 2 + 2 * total * twice + 2 * once**2 - 4 * squares * total * once
    own = float(scales**2 @ (shrinkage**2 - (squares - 2 * weights) ** 2))
    return squares**2 / (own + cross)


def _degrees_by_target(weights: FloatArray) -> float:
    """Degrees of freedom when the ratio of a cluster has a variance of one over its targets."""
    scales = weights**2 / (1 - weights)
    return 1 / float(weights @ weights + scales.sum() ** 2 - scales @ scales)
