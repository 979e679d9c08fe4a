import numpy as np
import pytest

from tasks.judge.bootstrap import sample_ratio
from tasks.judge.power import detectable_effect


def test_more_clusters_less_spread_and_a_looser_level_show_smaller_effects() -> None:
    effects = [detectable_effect([1000] * count, 0.1, 0.05) for count in (8, 30, 100)]
    assert None not in effects
    assert sorted(effects, reverse=True) == effects  # pyright: ignore[reportArgumentType]
    assert detectable_effect([1000] * 8, 0.05, 0.05) == pytest.approx((effects[0] or 0) / 2)
    assert (detectable_effect([1000] * 8, 0.1, 0.05 / 6) or 0) > (effects[0] or 0)


def test_many_equal_clusters_come_to_the_normal_formula() -> None:
    effect = detectable_effect([512] * 10_000, 0.1, 0.05)
    assert effect == pytest.approx((1.6449 + 0.8416) * 0.1 / 100, rel=1e-3)


def test_a_cluster_that_dominates_makes_a_slice_of_many_show_little() -> None:
    even = detectable_effect([1000] * 30, 0.1, 0.05)
    uneven = detectable_effect([1000] * 29 + [30_000], 0.1, 0.05)
    assert even is not None
    assert uneven is not None
    assert uneven > 3 * even


@pytest.mark.parametrize("targets", [[], [500], [500, 400], [500, 0, 400], [10**7, 9, 9]])
def test_what_is_hardly_more_than_one_cluster_shows_nothing(targets: list[int]) -> None:
    assert detectable_effect(targets, 0.1, 0.05) is None


@pytest.mark.parametrize("skew", [0.0, 1.0])
def test_a_planned_effect_is_seen_four_times_in_five(skew: float) -> None:
    random = np.random.default_rng(1)
    seen, simulations = 0, 200
    for _ in range(simulations):
        targets = random.lognormal(6, skew, 20).astype(int)
        effect = detectable_effect(targets.tolist(), 0.1, 0.05)
        assert effect is not None
        values = targets * random.normal(-effect, 0.1, 20)
        clusters = {
            f"c{at}": (float(value), int(size))
            for at, (value, size) in enumerate(zip(values, targets, strict=True))
        }
        seen += sample_ratio(clusters, resamples=399).p_below(0.0) <= 0.05
    # Three standard errors are 0.085; what is planned is somewhat careful.
    assert 0.715 <= seen / simulations <= 0.95


def test_a_negative_spread_is_refused() -> None:
    with pytest.raises(ValueError, match=r"spread of at least 0 nats per token, got -0\.1"):
        detectable_effect([500, 500], -0.1, 0.05)
