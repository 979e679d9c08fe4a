import random

from tasks.evaluations.chance import at_chance, chance_level, p_by_chance
from training.items.item import Item
from training.items.score import ItemScore


def items(count: int, choices: int, cluster_size: int = 1) -> list[Item]:
    kind = "cloze" if choices == 1 else "multiple_choice"
    return [
        Item(
            id=f"{n}",
            cluster=f"c{n // cluster_size}",
            kind=kind,
            choices=tuple(f"answer {k}" for k in range(choices)),
        )
        for n in range(count)
    ]


def answered(asked: list[Item], is_correct: list[bool]) -> list[ItemScore]:
    return [
        ItemScore(item=i.id, cluster=i.cluster, is_correct=right, answer="", nats=1.0, targets=1)
        for i, right in zip(asked, is_correct, strict=True)
    ]


def test_who_guesses_is_at_chance_but_for_five_in_a_hundred() -> None:
    rng = random.Random(1)
    for choices, count in ((2, 200), (4, 150), (8, 150)):
        asked = items(count, choices)
        above = sum(
            not at_chance(asked, answered(asked, [rng.random() < 1 / choices for _ in asked]))
            for _ in range(2000)
        )
        # Three standard errors of a share of 5 % among 2,000.
        assert above <= 2000 * 0.05 + 3 * (2000 * 0.05 * 0.95) ** 0.5


def test_who_guesses_whole_clusters_alike_is_at_chance_too() -> None:
    rng = random.Random(2)
    asked = items(300, 2, cluster_size=10)
    above = 0
    for _ in range(2000):
        luck = [rng.random() < 0.5 for _ in range(30)]
        above += not at_chance(asked, answered(asked, [luck[n // 10] for n in range(300)]))
    assert above <= 2000 * 0.05 + 3 * (2000 * 0.05 * 0.95) ** 0.5


def test_a_little_knowledge_is_seen_in_enough_items() -> None:
    rng = random.Random(3)
    asked = items(500, 4)
    shown = sum(
        not at_chance(asked, answered(asked, [rng.random() < 0.35 for _ in asked]))
        for _ in range(200)
    )
    assert shown >= 196


def test_a_written_answer_has_a_floor_and_no_chance() -> None:
    asked = items(200, 1)
    assert chance_level(asked) == 0.02
    assert at_chance(asked, answered(asked, [n < 6 for n in range(200)]))
    assert not at_chance(asked, answered(asked, [n < 12 for n in range(200)]))


def test_all_right_is_never_chance_and_all_wrong_always() -> None:
    asked = items(150, 8)
    assert p_by_chance(asked, answered(asked, [True] * 150)) < 1e-20
    assert p_by_chance(asked, answered(asked, [False] * 150)) > 0.99
