"""Which of several merges is worth judging."""

import math

from tasks.judge.verdict import DomainRow, Test
from tasks.remedy.select import chance_to_pass

ALPHA = 0.0125


def row(test: Test, difference: float, noise: float, margin: float) -> DomainRow:
    return DomainRow(
        domain="prose",
        role="new" if test == "gain" else "old",
        test=test,
        against="1-a",
        documents=9,
        clusters=9,
        targets=90,
        candidate_nats_per_token=3.0,
        champion_nats_per_token=3.0,
        candidate_bits_per_byte=1.0,
        champion_bits_per_byte=1.0,
        difference=difference,
        upper_bound=difference + noise,
        margin=margin,
    )


def chance(weight: float) -> float:
    """Of a merge of a candidate that gains and loses as the thirty nights found it."""
    gain = row("gain", -0.31 * weight, 0.19 * weight, -0.02)
    loss = row("loss", 0.054 * weight**2, 0.016, 0.05)
    chances = [chance_to_pass(each, ALPHA) for each in (gain, loss, loss)]
    return math.prod(found for found in chances if found is not None)


def test_what_has_its_bound_at_the_margin_passes_one_time_in_two() -> None:
    found = chance_to_pass(row("loss", 0.03, 0.02, 0.05), ALPHA)
    assert found is not None
    assert math.isclose(found, 0.5)


def test_neither_the_least_change_nor_the_largest_gain_is_chosen() -> None:
    chances = {weight: chance(weight) for weight in (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.95)}
    assert max(chances, key=chances.__getitem__) in (0.3, 0.5)
    assert chances[0.05] < 0.1
    assert chances[0.95] < chances[0.5] / 2


def test_no_bound_and_no_noise_are_no_accidents() -> None:
    bare = row("loss", 0.0, 0.0, 0.05)
    assert chance_to_pass(bare, ALPHA) == 1.0
    assert chance_to_pass(row("loss", 0.0, math.inf, 0.05), ALPHA) == chance_to_pass(
        row("loss", 0.04, math.inf, 0.05), ALPHA
    )
