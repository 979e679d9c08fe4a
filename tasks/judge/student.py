"""Student's t, central and shifted, for any number of degrees of freedom from 1 on.

The distribution of ``(Z + shift) / U``: Z is standard normal, ``df * U**2`` chi-squared. Written
here because the judge needs three numbers of it, and scipy is no requirement of ours.
"""

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import numpy.typing as npt

_NODES = 241
_COARSE_NODES = 97
"""For probabilities of which three digits are enough."""
_NORMAL_DF = 1e8
"""From here on the difference from the normal distribution is below 1e-7."""


def tail(value: float, df: float, shift: float = 0.0) -> float:
    """Probability that t with ``df`` degrees of freedom, shifted by ``shift``, exceeds ``value``.

    The relative error is below 1e-6 down to probabilities of 1e-9; ``df`` is at least 1.
    """
    scales, weights = _scales(min(df, _NORMAL_DF), _NODES)
    normal = [math.erfc((value * scale - shift) / math.sqrt(2)) for scale in scales]
    return math.fsum(weight * part for weight, part in zip(weights, normal, strict=True)) / 2


@lru_cache(maxsize=256)
def upper_quantile(alpha: float, df: float) -> float:
    """What t exceeds with probability ``alpha``, for ``alpha`` in (0, 0.5]."""
    return _root(lambda value: alpha - tail(value, df), 1e-12)


def shift_for_power(critical: float, df: float, power: float) -> float:
    """The shift with which t exceeds ``critical`` with probability ``power``, at least a half.

    In standard errors: how far from its margin an effect must lie to be shown that often.
    """
    return _root(lambda shift: tail(critical, df, shift) - power, 1e-9)


def estimated_shift_for_power(critical: float, df: float, power: float) -> float:
    """The same in *estimated* standard errors, which vary as those of the test itself do.

    A promise that rests on an estimate is too small whenever the estimate is; this one is kept on
    average over estimates. Three digits.
    """
    scales, weights = map(np.array, _scales(min(df, _NORMAL_DF), _COARSE_NODES))
    points, below = _normal_table()

    def shown(shift: float) -> float:
        distances = shift * scales[:, None] - critical * scales
        return float(weights @ np.interp(distances, points, below) @ weights)

    return _root(lambda shift: shown(shift) - power, 1e-4)


@lru_cache(maxsize=1)
def _normal_table() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Points and the normal distribution there, close enough to interpolate four digits."""
    points = np.linspace(-8.0, 8.0, 3201)
    return points, np.array([math.erfc(-point / math.sqrt(2)) / 2 for point in points])


@lru_cache(maxsize=256)
def _scales(df: float, count: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Values of U and their probabilities: the trapezoidal rule over log U, where it is smooth."""
    # Beyond these ends the density is below exp(-40) of its peak.
    left = math.sqrt(120 / df) if df > 120 else max(1.0, 40 / df + 0.5)
    logs = np.linspace(-left, math.sqrt(40 / df) if df > 10 else 2.0, count)
    density = np.exp(df * (logs - np.expm1(2 * logs) / 2))
    density[[0, -1]] /= 2
    return tuple(np.exp(logs).tolist()), tuple((density / density.sum()).tolist())


def _root(rising: Callable[[float], float], precision: float) -> float:
    """Where ``rising`` crosses 0, from 0 on, to a relative ``precision``."""
    low, high = 0.0, 1.0
    while rising(high) < 0:
        low, high = high, 2 * high
    while high - low > precision * high:
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return high
