import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.judge.bootstrap import resamples_for, sample_ratio

CLUSTERS = st.dictionaries(
    st.text(min_size=1, max_size=4),
    st.tuples(st.floats(-100, 100, allow_subnormal=False), st.integers(1, 10_000)),
    min_size=2,
    max_size=12,
)


def simulated(rng: np.random.Generator, count: int) -> dict[str, tuple[float, int]]:
    """Log-normal cluster sizes; the true ratio is 0.03."""
    targets = np.maximum(20, rng.lognormal(6, 1.0, count)).round()
    values = targets * rng.normal(0.03, 0.05, count) + np.sqrt(targets) * rng.normal(0, 0.6, count)
    return {
        f"c{index}": (float(value), int(size))
        for index, (value, size) in enumerate(zip(values, targets, strict=True))
    }


def test_exact_zeros_stay_exact_zeros() -> None:
    sample = sample_ratio({f"c{index}": (0.0, 10 + index) for index in range(7)})
    assert sample.estimate == 0.0
    assert (sample.lower(0.05), sample.upper(0.05)) == (0.0, 0.0)
    assert (sample.detectable_below(0.05), sample.detectable_above(0.05)) == (0.0, 0.0)
    assert (sample.p_above(-0.02), sample.p_below(-0.02)) == (0.0, 1.0)


def test_one_cluster_bounds_nothing() -> None:
    sample = sample_ratio({"only": (30.0, 100)})
    assert sample.estimate == 0.3
    assert sample.lower(0.05) is None
    assert sample.upper(0.05) is None
    assert sample.detectable_below(0.05) is None
    assert sample.p_below(10.0) == sample.p_above(-10.0) == 1.0


def test_two_clusters_bound_nothing_either() -> None:
    sample = sample_ratio({"a": (30.0, 100), "b": (-10.0, 80)})
    assert sample.lower(0.05) is None
    assert sample.upper(0.05) is None


def test_a_shift_that_is_the_same_everywhere_is_known_exactly() -> None:
    sample = sample_ratio({f"c{size}": (0.25 * size, size) for size in (64, 128, 1024)})
    assert sample.lower(0.05) == sample.estimate == sample.upper(0.05) == 0.25


def test_the_bounds_do_not_change_from_run_to_run() -> None:
    clusters = simulated(np.random.default_rng(1), 40)
    once, again = sample_ratio(clusters), sample_ratio(dict(reversed(clusters.items())))
    assert once.pivots.tobytes() == again.pivots.tobytes()
    assert once.adjusted_error == again.adjusted_error


def test_resampling_in_blocks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    clusters = simulated(np.random.default_rng(2), 30)
    whole = sample_ratio(clusters)
    monkeypatch.setattr("tasks.judge.bootstrap._BLOCK_WEIGHTS", 30 * 700)
    blocks = sample_ratio(clusters)
    # Not bit for bit: a matrix product may round differently when it has another height.
    np.testing.assert_allclose(blocks.pivots, whole.pivots, rtol=1e-12, atol=1e-12)


@settings(max_examples=50, deadline=None)
@given(CLUSTERS, st.floats(-1, 1))
def test_p_values_agree_with_the_bounds(
    clusters: dict[str, tuple[float, int]], margin: float
) -> None:
    sample = sample_ratio(clusters, resamples=400)
    lower, upper = sample.lower(0.05), sample.upper(0.05)
    if lower is not None and upper is not None:
        assert lower <= upper
    # A margin within rounding of the bound may fall on either side of it.
    if upper is None or abs(upper - margin) > 1e-12:
        assert (sample.p_below(margin) <= 0.05) == (upper is not None and upper < margin)
    if lower is None or abs(lower - margin) > 1e-12:
        assert (sample.p_above(margin) <= 0.05) == (lower is not None and lower > margin)


@settings(max_examples=50, deadline=None)
@given(CLUSTERS)
def test_a_stricter_level_never_narrows_the_bounds(clusters: dict[str, tuple[float, int]]) -> None:
    sample = sample_ratio(clusters, resamples=400)
    strict, loose = sample.upper(0.01), sample.upper(0.2)
    assert strict is None or (loose is not None and loose <= strict)
    tightest = sample.detectable_below(0.01)
    assert tightest is None or (sample.detectable_below(0.2) or 0.0) <= tightest


@pytest.mark.parametrize("count", [8, 40])
def test_the_bounds_cover_the_truth_as_often_as_they_say(count: int) -> None:
    """200 simulations: 0.95 less three standard errors (0.046)."""
    rng = np.random.default_rng(3)
    covered = np.zeros(2)
    for _ in range(200):
        sample = sample_ratio(simulated(rng, count), resamples=999)
        lower, upper = sample.lower(0.05), sample.upper(0.05)
        assert lower is not None
        assert upper is not None
        covered += (lower <= 0.03, upper >= 0.03)
    assert (covered >= 0.904 * 200).all()
    # Bounds that always cover would be too wide to be of use.
    assert (covered < 200).all()


def test_an_effect_of_the_promised_size_is_seen_four_times_in_five() -> None:
    rng = np.random.default_rng(4)
    seen, simulations = 0, 200
    for _ in range(simulations):
        sample = sample_ratio(simulated(rng, 80), resamples=999)
        effect = sample.detectable_below(0.05)
        assert effect is not None
        seen += sample.p_below(0.03 + effect) <= 0.05
    # Three standard errors of 200 simulations are 0.085.
    assert 0.715 * simulations <= seen <= 0.9 * simulations


def test_a_sample_without_targets_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one target, found 0 clusters"):
        sample_ratio({"a": (0.0, 0)})


def test_values_that_are_not_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="expected finite values"):
        sample_ratio({"a": (float("nan"), 3), "b": (0.0, 3)})


def test_a_level_beyond_the_resamples_is_refused() -> None:
    sample = sample_ratio({"a": (0.0, 3), "b": (1.0, 3)}, resamples=99)
    with pytest.raises(ValueError, match=r"alpha of at least 0\.01, got 0\.001: 99 resamples"):
        sample.upper(0.001)


def test_a_cluster_that_holds_nearly_all_bounds_nothing() -> None:
    clusters = {"all": (30_000.0, 1_000_000)} | {f"c{size}": (0.1 * size, size) for size in (3, 5)}
    sample = sample_ratio(clusters)
    assert sample.upper(0.05) is None
    assert sample.p_below(10.0) == 1.0


def test_a_large_cluster_among_small_ones_widens_the_bounds() -> None:
    """Its own error is nearly invisible in the residuals; eight even clusters show theirs."""
    ratios = (0.01, -0.02, 0.03, 0.0, 0.02, -0.01, 0.01, 0.0)

    def width(sizes: list[int]) -> float:
        pairs = zip(sizes, ratios, strict=True)
        sample = sample_ratio({f"c{i}": (size * r, size) for i, (size, r) in enumerate(pairs)})
        return (sample.upper(0.05) or math.inf) - sample.estimate

    uneven = [width([1000] * at + [20_000] + [1000] * (7 - at)) for at in range(8)]
    assert sum(uneven) / 8 > 3 * width([1000] * 8)


@pytest.mark.parametrize("level", [0.05, 0.05 / 6, 0.05 / 6 / 40])
def test_as_many_resamples_are_drawn_as_a_level_needs(level: float) -> None:
    clusters = {f"c{size}": (0.5 * size + 0.01 * (-1) ** size, size) for size in range(64, 90)}
    sample = sample_ratio(clusters, resamples=resamples_for(level))
    assert sample.p_above(0.0) <= level / 5
    assert sample.lower(level) is not None


@pytest.mark.parametrize("level", [0.0, -0.1, 1.0])
def test_a_level_that_is_no_level_is_refused(level: float) -> None:
    with pytest.raises(ValueError, match="level between 0 and 1"):
        resamples_for(level)


def test_golden_bounds() -> None:
    """Pins seed and formula: a change here changes verdicts on record."""
    clusters = {
        name: (size * (size % 7 - 3) / 64, size)
        for name, size in zip("abcdefghij", range(3, 33, 3), strict=True)
    }
    sample = sample_ratio(clusters)
    # Not bit for bit: matrix products of other processors round differently.
    found = (sample.estimate, sample.lower(0.05), sample.upper(0.05))
    assert found == pytest.approx(
        (0.0008522727272727272, -0.022691281375313274, 0.027688198351640644), rel=1e-9
    )
