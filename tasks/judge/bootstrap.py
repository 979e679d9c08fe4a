"""One-sided bounds for a ratio of sums over clusters, the wider of two: bootstrap-t and CR2.

Documents of one work, site or repository rise and fall together, so clusters count, not documents.
The statistic is ``sum of nats / sum of targets``, whose denominator is random too and whose
clusters are skewed in size. Two things go wrong with few clusters, and each bound repairs one:

* a cluster that holds much of the targets hides its own error: Student's t on a leverage-adjusted
  standard error (``tasks.judge.leverage``) knows that, a bootstrap does not;
* effects are not symmetric: a studentised bootstrap over clusters knows that, Student's t does not.

Measured: how often a nominal 5 % bound is wrong, the worse of the two sides. Real differences of
two pairs of models on prose (skewed sizes) and code (even sizes), 2,000 draws of clusters a cell;
in the last three rows made up, with log-normal sizes (sigma 1.2).

==================================  ===============  ===============  ===============
8 / 30 clusters                     bootstrap-t      CR2              the wider
==================================  ===============  ===============  ===============
prose, signs flipped by chance      0.087 / 0.069    0.032 / 0.056    0.029 / 0.052
code, signs flipped by chance       0.043 / 0.064    0.054 / 0.054    0.035 / 0.052
prose, as it is                     0.098 / 0.087    0.043 / 0.059    0.039 / 0.058
code, as it is                      0.061 / 0.061    0.089 / 0.092    0.059 / 0.061
effects independent of size         0.090 / 0.080    0.033 / 0.038    0.031 / 0.037
exponential effects                 0.172 / 0.115    0.149 / 0.131    0.127 / 0.099
effects that grow with size         0.262 / 0.193    0.260 / 0.246    0.221 / 0.188
==================================  ===============  ===============  ===============

The last two rows are out of reach of every method that was tried: clusters drawn from a population
with a long tail seldom hold any of it. Only numpy is used; nothing here reads or writes.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from tasks.judge.leverage import leverage
from tasks.judge.power import MAX_SHARE, POWER
from tasks.judge.student import estimated_shift_for_power, tail, upper_quantile

RESAMPLES = 4000
"""At least: the p-value behind a 5 % bound then has a standard error of 0.35 percentage points."""
_TAIL_RESAMPLES = 5
# Resamples are drawn in blocks, so that 100,000 clusters do not need a 3 GiB matrix of weights.
_BLOCK_WEIGHTS = 4_000_000
# A spread this small against the size of the sums is rounding of floats, not sampling noise.
_ROUNDING = 1e-12

FloatArray: TypeAlias = npt.NDArray[np.float64]


def resamples_for(level: float) -> int:
    """As many resamples as a test at ``level`` needs: some of them must lie beyond it.

    Raises:
        ValueError: The level is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"expected a level between 0 and 1, got {level:g}")
    return max(RESAMPLES, math.ceil(_TAIL_RESAMPLES / level))


@dataclass(frozen=True, slots=True, eq=False)
class RatioSample:
    """The statistic with what is known of its errors, which gives bounds and p-values alike.

    Bounds are ``None`` where the clusters do not determine them: with a single cluster, with one
    that holds nearly all targets, or with so few that many resamples repeat one of them only.
    p-values are then 1: no evidence.
    """

    estimate: float
    """Sum of the values over the sum of the targets."""
    error: float
    """Linearised standard error, that of the pivots; 0 when every cluster has the same ratio,
    infinite when there is one cluster."""
    adjusted_error: float
    """Standard error adjusted for leverage; 0 or infinite when ``error`` is."""
    degrees_of_freedom: float
    """Of the adjusted error."""
    pivots: FloatArray = field(repr=False)
    """``float64[resamples]``, sorted: (resampled - estimate) / its error; may be infinite."""

    def upper(self, alpha: float) -> float | None:
        """The statistic lies below this with confidence ``1 - alpha``."""
        distance = self._distance(alpha, -float(self.pivots[self._rank(alpha)]))
        return None if distance is None else self.estimate + distance

    def lower(self, alpha: float) -> float | None:
        """The statistic lies above this with confidence ``1 - alpha``."""
        distance = self._distance(alpha, float(self.pivots[-1 - self._rank(alpha)]))
        return None if distance is None else self.estimate - distance

    def p_below(self, margin: float) -> float:
        """p-value of "the statistic is at least ``margin``".

        At most alpha exactly when ``upper(alpha) < margin``.
        """
        if self.error == 0.0:
            return 0.0 if self.estimate < margin else 1.0
        if math.isinf(self.error):
            return 1.0
        pivot = (self.estimate - margin) / self.error
        extreme = int(np.searchsorted(self.pivots, pivot, side="right"))
        return self._p_value(extreme, margin - self.estimate)

    def p_above(self, margin: float) -> float:
        """p-value of "the statistic is at most ``margin``".

        At most alpha exactly when ``lower(alpha) > margin``.
        """
        if self.error == 0.0:
            return 0.0 if self.estimate > margin else 1.0
        if math.isinf(self.error):
            return 1.0
        pivot = (self.estimate - margin) / self.error
        extreme = self.pivots.size - int(np.searchsorted(self.pivots, pivot, side="left"))
        return self._p_value(extreme, self.estimate - margin)

    def detectable_below(self, alpha: float) -> float | None:
        """How far below a margin the statistic is shown to be so with a probability of 80 %."""
        bound = self.upper(alpha)
        return None if bound is None else self._detectable(bound - self.estimate)

    def detectable_above(self, alpha: float) -> float | None:
        """How far above a margin the statistic is shown to be so with a probability of 80 %."""
        bound = self.lower(alpha)
        return None if bound is None else self._detectable(self.estimate - bound)

    def _detectable(self, distance: float) -> float:
        if self.error == 0.0:
            return 0.0
        df, error = self.degrees_of_freedom, self.adjusted_error
        return error * estimated_shift_for_power(distance / error, df, POWER)

    def _rank(self, alpha: float) -> int:
        """Index of the last pivot in the tail of ``alpha``: (1 + index) / (1 + pivots) <= alpha."""
        # The tiny addend keeps 0.05 * 4000-odd from landing one rank lower by rounding.
        rank = math.floor(alpha * (1 + self.pivots.size) + 1e-9) - 1
        if rank < 0:
            raise ValueError(
                f"expected alpha of at least {1 / (1 + self.pivots.size):g}, got {alpha:g}: "
                f"{self.pivots.size} resamples cannot show less"
            )
        return rank

    def _distance(self, alpha: float, pivot: float) -> float | None:
        """From the estimate to the bound: the larger of the two methods'."""
        if self.error == 0.0:
            return 0.0
        if math.isinf(self.error) or math.isinf(pivot):
            return None
        adjusted = self.adjusted_error * upper_quantile(alpha, self.degrees_of_freedom)
        return max(self.error * pivot, adjusted)

    def _p_value(self, extreme: int, distance: float) -> float:
        """The larger of the two methods'; ``distance`` is from the margin, where evidence lies."""
        resampled = (1 + extreme) / (1 + self.pivots.size)
        return max(resampled, tail(distance / self.adjusted_error, self.degrees_of_freedom))


def sample_ratio(
    clusters: Mapping[str, tuple[float, int]], *, resamples: int = RESAMPLES
) -> RatioSample:
    """Bootstrap ``clusters``, name -> (sum of the value, sum of targets); values must be finite.

    Pure: the seed comes from the content, so the same items give the same bounds, in whatever
    order. All values exactly 0 give exactly 0 everywhere.

    Raises:
        ValueError: No cluster has a target, or a value is not finite.
    """
    names = sorted(name for name, (_, targets) in clusters.items() if targets > 0)
    values = np.array([clusters[name][0] for name in names], dtype=np.float64)
    targets = np.array([clusters[name][1] for name in names], dtype=np.float64)
    if not names or not np.isfinite(values).all():
        raise ValueError(
            f"expected finite values over at least one target, found {len(names)} clusters with "
            f"targets "
            f"and the sum {values.sum():g}: leave out slices that hold nothing and scores that "
            f"are not numbers"
        )
    estimate = math.fsum(values) / math.fsum(targets)
    residuals = values - estimate * targets
    error = float(_deviations(np.ones((1, len(names))), residuals, targets)[1][0])
    unknown = len(names) == 1 or targets.max() > MAX_SHARE * targets.sum()
    if error <= _ROUNDING * float(np.abs(values).sum() / targets.sum()):
        # One cluster has no spread of its own: unless it is exactly 0, its error is unknown, not 0.
        error = 0.0 if not unknown or estimate == 0.0 else math.inf
    elif unknown:
        error = math.inf
    if error == 0.0 or math.isinf(error):
        return RatioSample(estimate, error, error, 1.0, np.zeros(resamples))
    found = leverage(targets)
    adjusted = math.sqrt(float((residuals**2 / found.shrinkage).sum())) / float(targets.sum())
    deviations, errors = _resample(residuals, targets, resamples)
    with np.errstate(divide="ignore", invalid="ignore"):
        pivots = deviations / errors
    # A resample that repeats one cluster says nothing about its own error: it is as extreme as can
    # be.
    degenerate = errors <= _ROUNDING * error
    pivots[degenerate] = np.copysign(math.inf, deviations[degenerate])
    return RatioSample(estimate, error, adjusted, found.degrees_of_freedom, np.sort(pivots))


def _resample(
    residuals: FloatArray, targets: FloatArray, resamples: int
) -> tuple[FloatArray, FloatArray]:
    """Deviations from the estimate and their standard errors, each ``float64[resamples]``."""
    digest = hashlib.sha256(residuals.tobytes() + targets.tobytes()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:16], "little"))
    count = residuals.size
    block = max(1, _BLOCK_WEIGHTS // count)
    parts: list[tuple[FloatArray, FloatArray]] = []
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        # Counted draws, not draws of counts: five times as fast as a multinomial distribution.
        drawn = rng.integers(count, size=(rows, count)) + count * np.arange(rows)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count)
        parts.append(_deviations(weights.astype(np.float64), residuals, targets))
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def _deviations(
    weights: FloatArray, residuals: FloatArray, targets: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """How far ``weights`` move the ratio, and the linearised standard errors of the moved ratios.

    Weights are ``float64[resamples, clusters]``, counts of each cluster in a resample.

    Residuals keep the squares from cancelling when all clusters have nearly the same ratio.
    """
    count = residuals.size
    columns = np.stack([targets, residuals, residuals**2, residuals * targets, targets**2], axis=1)
    total, shift, squares, products, sizes = (weights @ columns).T
    deviations = shift / total
    variances = squares - 2 * deviations * products + deviations**2 * sizes
    scale = count / (count - 1) if count > 1 else 1.0
    return deviations, np.sqrt(np.maximum(variances, 0.0) * scale) / total
