import random

from tasks.evaluations.detectable import detectable_fall
from training.items.score import ItemScore


def scores(is_correct: list[bool], cluster_size: int = 1) -> list[ItemScore]:
    return [
        ItemScore(
            item=f"{n}",
            cluster=f"{n // cluster_size}",
            is_correct=right,
            answer="",
            nats=1.0,
            targets=1,
        )
        for n, right in enumerate(is_correct)
    ]


def test_more_items_rule_out_less_and_clusters_cost() -> None:
    falls = [detectable_fall(n, n, ()) for n in (100, 400, 1600)]
    # The error falls with the root of the number of items.
    assert falls[0] / falls[1] == falls[1] / falls[2] == 2
    assert detectable_fall(1000, 100, ()) > detectable_fall(1000, 1000, ())
    assert detectable_fall(1083, 1083, ()) <= 0.05 < detectable_fall(1081, 1081, ())


def test_earlier_pairs_tell_what_models_differ_in() -> None:
    rng = random.Random(1)
    before = [rng.random() < 0.7 for _ in range(1000)]
    after = [right != (rng.random() < 0.1) for right in before]
    found = detectable_fall(1000, 1000, [(scores(after), scores(before))])
    # A tenth differs: (1.645 + 1.645) * sqrt(0.1 / 1000), within the noise of a hundred flips.
    assert abs(found - 3.2898 * (0.1 / 1000) ** 0.5) < 0.005


def test_whole_clusters_that_flip_are_worth_one_item_each() -> None:
    rng = random.Random(2)
    before = [True] * 1000
    luck = [rng.random() < 0.9 for _ in range(100)]
    after = [luck[n // 10] for n in range(1000)]
    pair = scores(after, 10), scores(before, 10)
    alone = scores(after), scores(before)
    ratio = detectable_fall(1000, 100, [pair]) / detectable_fall(1000, 1000, [alone])
    assert abs(ratio - 10**0.5) < 1e-6


def test_models_that_never_differed_are_not_taken_to_differ_never() -> None:
    same = scores([True] * 200)
    assert detectable_fall(200, 200, [(same, same)]) == 3.2898 / 200
