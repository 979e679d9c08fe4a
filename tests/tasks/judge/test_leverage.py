import math

import numpy as np
import pytest

from tasks.judge.leverage import leverage


@pytest.mark.parametrize("count", [2, 3, 8, 40])
@pytest.mark.parametrize("skew", [0.0, 1.0, 2.0])
def test_leverage_is_what_the_matrices_say(count: int, skew: float) -> None:
    targets = np.random.default_rng(count).lognormal(6, skew, count)
    weights = targets / targets.sum()
    residuals = np.eye(count) - np.outer(np.ones(count), weights)
    found = leverage(targets)
    np.testing.assert_allclose(found.shrinkage, np.diag(residuals @ residuals.T))
    degrees: list[float] = []
    for variances in (np.ones(count), 1 / targets):
        covariance = residuals @ np.diag(variances) @ residuals.T
        # Each squared residual over what it is expected to be, weighted as the ratio weights it.
        roots = weights * np.sqrt(variances / np.diag(covariance))
        form = roots[:, None] * covariance * roots
        degrees.append(np.trace(form) ** 2 / np.trace(form @ form))
    expected = max(1.0, math.sqrt(degrees[0] * degrees[1]))
    assert found.degrees_of_freedom == pytest.approx(expected)


def test_equal_clusters_have_their_textbook_degrees_of_freedom() -> None:
    found = leverage(np.full(12, 512.0))
    assert found.degrees_of_freedom == pytest.approx(11)
    assert found.error == pytest.approx(1 / math.sqrt(12))


def test_one_cluster_that_holds_nearly_all_leaves_one_degree_of_freedom() -> None:
    found = leverage(np.array([1e6, 1.0, 1.0, 1.0]))
    assert found.degrees_of_freedom == pytest.approx(1, abs=1e-3)
    assert found.error == pytest.approx(1, abs=1e-3)
