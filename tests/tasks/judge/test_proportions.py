import math

import numpy as np
import pytest

from tasks.judge.proportions import (
    ClusterAnswers,
    ShareSample,
    accuracy_difference,
    negative_flip_share,
)


def singles(items: int, negative: int, positive: int) -> dict[str, ClusterAnswers]:
    return {
        f"c{at}": ClusterAnswers(
            items=1,
            negative_flips=int(at < negative),
            positive_flips=int(negative <= at < negative + positive),
        )
        for at in range(items)
    }


def difference(clusters: dict[str, ClusterAnswers]) -> ShareSample:
    return accuracy_difference(clusters, is_same_model=False, resamples=400)


def flips(clusters: dict[str, ClusterAnswers]) -> ShareSample:
    return negative_flip_share(clusters, is_same_model=False, resamples=400)


def log_likelihood(share: float, change: float, counts: tuple[int, int, int]) -> float:
    """Of (positive, negative, neither) when the share of negative flips is ``share``."""
    shares = (share + change, share, 1 - 2 * share - change)
    parts = zip(counts, shares, strict=True)
    return sum(count * math.log(part) for count, part in parts if count)


@pytest.mark.parametrize("change", [-0.1, -0.02, 0.04])
def test_the_score_rests_on_the_likeliest_share_under_the_hypothesis(change: float) -> None:
    """Found here by looking at all shares, there by a quadratic equation."""
    items, negative, positive = 200, 17, 9
    counts = (positive, negative, items - negative - positive)
    low, high = max(0.0, -change), (1 - change) / 2
    shares = np.linspace(low, high, 200_001)[1:-1]
    best = max(shares, key=lambda share: log_likelihood(share, change, counts))
    variance = items * (2 * best + change - change**2)
    expected = (positive - negative - 0.5 - items * change) / math.sqrt(variance)
    found = difference(singles(items, negative, positive)).p_above(change)
    assert found == pytest.approx(math.erfc(expected / math.sqrt(2)) / 2, rel=1e-4)


def test_bounds_are_where_p_values_reach_the_level() -> None:
    for sample in (difference(singles(120, 8, 11)), flips(singles(120, 8, 11))):
        lower, upper = sample.lower(0.05), sample.upper(0.05)
        assert lower is not None
        assert upper is not None
        assert lower < sample.estimate < upper
        assert sample.p_above(lower) == pytest.approx(0.05, rel=1e-6)
        assert sample.p_below(upper) == pytest.approx(0.05, rel=1e-6)


def test_no_flip_among_few_items_is_no_proof() -> None:
    few, many = difference(singles(20, 0, 0)), difference(singles(2000, 0, 0))
    assert few.estimate == many.estimate == 0.0
    assert (few.lower(0.05) or 0.0) < -0.1
    assert (many.lower(0.05) or 0.0) > -0.002
    assert (flips(singles(20, 0, 0)).upper(0.05) or 0.0) > 0.1


def test_the_same_model_is_exactly_the_same() -> None:
    for found in (accuracy_difference, negative_flip_share):
        sample = found(singles(20, 0, 0), is_same_model=True, resamples=400)
        assert (sample.lower(0.05), sample.estimate, sample.upper(0.05)) == (0.0, 0.0, 0.0)
        assert (sample.p_above(-0.05), sample.p_below(-0.05)) == (0.0, 1.0)


def test_items_of_one_cluster_are_not_so_many_answers() -> None:
    """Ten passages with ten items each, two of which are lost whole."""
    whole = {
        f"c{at}": ClusterAnswers(items=10, negative_flips=10 * (at < 2), positive_flips=0)
        for at in range(10)
    }
    apart = difference(singles(100, 20, 0))
    together = difference(whole)
    assert together.estimate == apart.estimate == -0.2
    assert (together.lower(0.05) or -1.0) < (apart.lower(0.05) or -1.0) - 0.05
    assert together.p_below(-0.05) > 10 * apart.p_below(-0.05)


def test_clusters_that_all_agree_count_once_each() -> None:
    clusters = {
        f"c{at}": ClusterAnswers(items=50, negative_flips=0, positive_flips=0) for at in range(6)
    }
    assert difference(clusters).lower(0.05) == pytest.approx(
        difference(singles(6, 0, 0)).lower(0.05)
    )


@pytest.mark.parametrize("items", [60, 1000])
def test_a_fall_at_the_margin_is_misjudged_no_more_often_than_promised(items: int) -> None:
    random = np.random.default_rng(items)
    counts = random.multinomial(items, (0.025, 0.075, 0.9), size=1000)
    wrong = np.zeros(2)
    for positive, negative, _ in counts:
        sample = difference(singles(items, int(negative), int(positive)))
        wrong += (sample.p_above(-0.05) <= 0.05, sample.p_below(-0.05) <= 0.05)
    # Three standard errors of 1,000 trials are 0.021; bounds that are never wrong are too wide.
    assert (wrong / 1000 <= 0.071).all()
    assert (wrong / 1000 >= 0.01).all()


def test_a_change_of_the_promised_size_is_seen_four_times_in_five() -> None:
    random = np.random.default_rng(5)
    seen = 0
    for positive, negative, _ in random.multinomial(500, (0.06, 0.06, 0.88), size=300):
        sample = difference(singles(500, int(negative), int(positive)))
        effect = sample.detectable_above(0.05)
        assert effect is not None
        seen += sample.p_above(0.0 - effect) <= 0.05
    # Three standard errors of 300 trials are 0.07.
    assert 0.73 <= seen / 300 <= 0.87
