import pytest
from scipy import stats

from tasks.judge.student import shift_for_power, tail, upper_quantile


@pytest.mark.parametrize("df", [1.0, 1.5, 3.3, 7.0, 29.0, 500.0, 1e5])
def test_tails_and_quantiles_are_those_of_scipy(df: float) -> None:
    for alpha in (0.2, 0.05, 0.05 / 6, 0.001, 1e-6):
        assert upper_quantile(alpha, df) == pytest.approx(stats.t.isf(alpha, df), rel=1e-6)
    for value in (-2.0, 0.3, 2.0, 8.0):
        assert tail(value, df) == pytest.approx(stats.t.sf(value, df), rel=1e-6)
        assert tail(value, df, 2.5) == pytest.approx(stats.nct.sf(value, df, 2.5), rel=1e-6)


def test_many_degrees_of_freedom_are_the_normal_distribution() -> None:
    assert upper_quantile(0.05, 1e12) == pytest.approx(1.6448536, rel=1e-6)
    assert shift_for_power(0.05, 1e12, 0.8) == pytest.approx(1.6448536 + 0.8416212, rel=1e-6)


def test_a_shift_for_power_gives_that_power() -> None:
    shift = shift_for_power(0.01, 4.2, 0.8)
    assert stats.nct.sf(stats.t.isf(0.01, 4.2), 4.2, shift) == pytest.approx(0.8, rel=1e-6)
