"""One-sided bounds for a ratio of sums over clusters, by a studentised cluster bootstrap.

Documents of one work, site or repository rise and fall together, so clusters are resampled, not
documents. The statistic is ``sum of nats / sum of targets``, whose denominator is random too and
whose clusters are skewed in size. Measured coverage of nominal 95 % one-sided bounds, the worse of
the two sides, 600 samples of log-normal cluster sizes (sigma 1.2) with 8 / 20 / 100 clusters:

=====================================  ===================  ===================  ===================
how the effect varies over clusters    percentile           BCa                  studentised
=====================================  ===================  ===================  ===================
independently of size                  0.89 / 0.90 / 0.93   0.87 / 0.87 / 0.90   0.92 / 0.91 / 0.92
larger in larger clusters              0.67 / 0.73 / 0.81   0.69 / 0.76 / 0.85   0.82 / 0.85 / 0.88
exponentially                          0.80 / 0.85 / 0.90   0.80 / 0.85 / 0.90   0.86 / 0.90 / 0.92
=====================================  ===================  ===================  ===================

The basic bootstrap and Student's t on the linearised error did no better than these two. The
studentised bounds are wider, above all with few clusters: too little text ends in "cannot tell"
more often than in a wrong verdict. Only numpy is used; nothing here reads or writes.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

RESAMPLES = 4000
"""With 4,000, the p-value behind a 5 % bound has a standard error of 0.35 percentage points."""

_POWER = 0.8
# Resamples are drawn in blocks, so that 100,000 clusters do not need a 3 GiB matrix of weights.
_BLOCK_WEIGHTS = 4_000_000
# A spread this small against the size of the sums is rounding of floats, not sampling noise.
_ROUNDING = 1e-12

FloatArray: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class RatioSample:
    """The statistic with its bootstrap distribution, which gives bounds and p-values alike.

    Bounds are ``None`` where the clusters do not determine them: with a single cluster, or with so
    few that many resamples repeat one of them only. p-values are then 1: no evidence.
    """

    estimate: float
    """Sum of the values over the sum of the targets."""
    standard_error: float
    """Linearised; 0 when every cluster has the same ratio, infinite when there is one cluster."""
    spread: float
    """Standard deviation of the resampled estimates."""
    pivots: FloatArray
    """``float64[resamples]``, sorted: (resampled - estimate) / its error; may be infinite."""

    def upper(self, alpha: float) -> float | None:
        """The statistic lies below this with confidence ``1 - alpha``."""
        return self._bound(float(self.pivots[self._rank(alpha)]))

    def lower(self, alpha: float) -> float | None:
        """The statistic lies above this with confidence ``1 - alpha``."""
        return self._bound(float(self.pivots[-1 - self._rank(alpha)]))

    def p_below(self, margin: float) -> float:
        """p-value of "the statistic is at least ``margin``".

        At most alpha exactly when ``upper(alpha) < margin``.
        """
        if self.standard_error == 0.0:
            return 0.0 if self.estimate < margin else 1.0
        if math.isinf(self.standard_error):
            return 1.0
        pivot = (self.estimate - margin) / self.standard_error
        extreme = int(np.searchsorted(self.pivots, pivot, side="right"))
        return (1 + extreme) / (1 + self.pivots.size)

    def p_above(self, margin: float) -> float:
        """p-value of "the statistic is at most ``margin``".

        At most alpha exactly when ``lower(alpha) > margin``.
        """
        if self.standard_error == 0.0:
            return 0.0 if self.estimate > margin else 1.0
        if math.isinf(self.standard_error):
            return 1.0
        pivot = (self.estimate - margin) / self.standard_error
        extreme = self.pivots.size - int(np.searchsorted(self.pivots, pivot, side="left"))
        return (1 + extreme) / (1 + self.pivots.size)

    def smallest_detectable(self, alpha: float) -> float | None:
        """Distance from its margin at which an effect would be shown with a probability of 80 %."""
        if not math.isfinite(self.spread):
            return None
        normal = NormalDist()
        return (normal.inv_cdf(1 - alpha) + normal.inv_cdf(_POWER)) * self.spread

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

    def _bound(self, pivot: float) -> float | None:
        if self.standard_error == 0.0:
            return self.estimate
        if math.isinf(self.standard_error) or math.isinf(pivot):
            return None
        return self.estimate - self.standard_error * pivot


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
    if error <= _ROUNDING * float(np.abs(values).sum() / targets.sum()):
        # One cluster has no spread of its own: unless it is exactly 0, its error is unknown, not 0.
        error = 0.0 if len(names) > 1 or estimate == 0.0 else math.inf
    if error == 0.0 or math.isinf(error):
        return RatioSample(estimate, error, error, np.zeros(resamples))
    deviations, errors = _resample(residuals, targets, resamples)
    with np.errstate(divide="ignore", invalid="ignore"):
        pivots = deviations / errors
    # A resample that repeats one cluster says nothing about its own error: it is as extreme as can
    # be.
    degenerate = errors <= _ROUNDING * error
    pivots[degenerate] = np.copysign(math.inf, deviations[degenerate])
    return RatioSample(estimate, error, float(deviations.std(ddof=1)), np.sort(pivots))


def _resample(
    residuals: FloatArray, targets: FloatArray, resamples: int
) -> tuple[FloatArray, FloatArray]:
    """Deviations from the estimate and their standard errors, each ``float64[resamples]``."""
    digest = hashlib.sha256(residuals.tobytes() + targets.tobytes()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:16], "little"))
    count = residuals.size
    shares = np.full(count, 1 / count)
    block = max(1, _BLOCK_WEIGHTS // count)
    parts: list[tuple[FloatArray, FloatArray]] = []
    for start in range(0, resamples, block):
        weights = rng.multinomial(count, shares, size=min(block, resamples - start))
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
