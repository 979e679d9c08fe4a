import numpy as np
import pytest
from scipy import stats

from tasks.judge.student import (
    estimated_shift_for_power,
    shift_for_power,
    tail,
    upper_quantile,
)


@pytest.mark.parametrize("df", [1.0, 1.5, 3.3, 7.0, 29.0, 500.0, 1e5])
def test_tails_and_quantiles_are_those_of_scipy(df: float) -> None:
    for alpha in (0.2, 0.05, 0.05 / 6, 0.001, 1e-6):
        assert upper_quantile(alpha, df) == pytest.approx(stats.t.isf(alpha, df), rel=1e-6)
    for value in (-2.0, 0.3, 2.0, 8.0):
        assert tail(value, df) == pytest.approx(stats.t.sf(value, df), rel=1e-6)
        assert tail(value, df, 2.5) == pytest.approx(stats.nct.sf(value, df, 2.5), rel=1e-6)


def test_many_degrees_of_freedom_are_the_normal_distribution() -> None:
    critical = upper_quantile(0.05, 1e12)
    assert critical == pytest.approx(1.6448536, rel=1e-6)
    both = 1.6448536 + 0.8416212
    assert shift_for_power(critical, 1e12, 0.8) == pytest.approx(both, rel=1e-6)
    assert estimated_shift_for_power(critical, 1e12, 0.8) == pytest.approx(both, rel=1e-3)


def test_a_shift_for_power_gives_that_power() -> None:
    critical = upper_quantile(0.01, 4.2)
    shift = shift_for_power(critical, 4.2, 0.8)
    assert stats.nct.sf(critical, 4.2, shift) == pytest.approx(0.8, rel=1e-6)


@pytest.mark.parametrize("df", [1.0, 2.5, 9.0])
def test_a_shift_in_estimated_errors_gives_that_power_over_estimates(df: float) -> None:
    random = np.random.default_rng(0)
    critical = upper_quantile(0.05, df)
    estimate, error = (np.sqrt(random.chisquare(df, 200_000) / df) for _ in range(2))
    effect = estimated_shift_for_power(critical, df, 0.8) * estimate
    shown = (random.standard_normal(200_000) + effect > critical * error).mean()
    # Three standard errors of the simulation, and the three digits that are promised.
    assert shown == pytest.approx(0.8, abs=0.003 + 0.002)
