"""Learning-rate schedules: hand-computed points, continuity, monotony."""

import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.config import Schedule, ScheduleConfig
from training.schedule import cool_down, lr_at, resolve

KINDS = ("cosine", "constant", "wsd", "infinite")
TOTAL = 1_000


def config(kind: str, **changes: float) -> ScheduleConfig:
    fields = {"eta_max": 1e-3, "eta_min_ratio": 0.1, "eta_const_ratio": 0.5} | changes
    lengths = {"warmup_fraction": 0.1, "decay_fraction": 0.2, "cooldown_fraction": 0.3}
    return ScheduleConfig(kind=kind, **(lengths | fields))  # type: ignore[arg-type]


def schedule(kind: str, trunk_tokens: int = 0, **changes: float) -> Schedule:
    return resolve(config(kind, **changes), total_tokens=TOTAL, trunk_tokens=trunk_tokens)


# Warm-up ends at 100; cosine's middle is 550; wsd and infinite decay from 800; infinite's cooldown
# (1e-3 to 5e-4) runs from 100 to 400 and is half way at 250.
@pytest.mark.parametrize(
    ("kind", "tokens_seen", "lr"),
    [
        ("cosine", 1, 1e-5),
        ("cosine", 50, 5e-4),
        ("cosine", 100, 1e-3),
        ("cosine", 325, 1e-4 + 4.5e-4 * (1 + math.sqrt(0.5))),
        ("cosine", 550, 5.5e-4),
        ("cosine", 1000, 1e-4),
        ("cosine", 1500, 1e-4),
        ("constant", 50, 5e-4),
        ("constant", 100, 1e-3),
        ("constant", 1000, 1e-3),
        ("wsd", 50, 5e-4),
        ("wsd", 800, 1e-3),
        ("wsd", 850, 1e-4 + 9e-4 * 0.5),
        ("wsd", 1000, 1e-4),
        ("infinite", 50, 5e-4),
        ("infinite", 100, 1e-3),
        ("infinite", 250, 7.5e-4),
        ("infinite", 400, 5e-4),
        ("infinite", 800, 5e-4),
        ("infinite", 900, math.sqrt(5e-4 * 1e-4)),
        ("infinite", 1000, 1e-4),
    ],
)
def test_the_rate_is_what_the_formula_gives(kind: str, tokens_seen: int, lr: float) -> None:
    assert lr_at(tokens_seen, schedule(kind)) == pytest.approx(lr, rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_rate_is_continuous_at_every_boundary(kind: str) -> None:
    whole = 10**15  # so long that one token is a step of less than 1e-12
    plan = resolve(config(kind), total_tokens=whole)
    ends = (
        plan.warmup_tokens,
        plan.warmup_tokens + plan.cooldown_tokens,
        whole - plan.decay_tokens,
        whole,
    )
    for boundary in ends:
        before, at, after = (lr_at(boundary + offset, plan) for offset in (-1, 0, 1))
        # 1 - sqrt leaves its plateau with a vertical tangent: sqrt(1 / 2e14) of 9e-4 is 6e-11.
        tolerance = 1e-10 if kind == "wsd" else 1e-12
        assert abs(before - at) < 1e-12
        assert abs(after - at) < tolerance


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_step_has_the_lowest_rate_exactly(kind: str) -> None:
    plan = schedule(kind)
    assert lr_at(TOTAL, plan) == plan.eta_min
    assert plan.eta_min == (1e-3 if kind == "constant" else 1e-4)


@given(st.sampled_from(KINDS), st.integers(1, TOTAL))
def test_the_rate_is_never_zero_and_never_above_the_peak(kind: str, tokens_seen: int) -> None:
    assert 0 < lr_at(tokens_seen, schedule(kind)) <= 1e-3


@given(st.sampled_from(KINDS), st.integers(100, 2 * TOTAL), st.integers(0, 1))
def test_the_rate_never_rises_after_the_warm_up(kind: str, tokens: int, has_trunk: int) -> None:
    plan = schedule(kind, trunk_tokens=800 * has_trunk)
    assert lr_at(tokens + 1, plan) <= lr_at(tokens, plan)


def test_a_second_infinite_update_starts_at_the_constant_rate() -> None:
    plan = schedule("infinite", trunk_tokens=800)
    assert [lr_at(tokens, plan) for tokens in (1, 400, 800)] == [5e-4] * 3
    assert lr_at(TOTAL, plan) == 1e-4


def test_only_infinite_remembers_its_trunk() -> None:
    assert schedule("cosine", trunk_tokens=800) == schedule("cosine")


@pytest.mark.parametrize("kind", ["wsd", "infinite"])
def test_without_a_decay_the_rate_stays_to_the_end(kind: str) -> None:
    plan = schedule(kind, decay_fraction=0.0)
    assert lr_at(TOTAL, plan) == lr_at(TOTAL - 1, plan) == plan.eta_const


def test_phases_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must fit into the update's 1000 tokens"):
        schedule("infinite", decay_fraction=0.9)


def test_an_exponential_decay_to_zero_is_refused() -> None:
    with pytest.raises(ValueError, match=r"eta_min_ratio must be above 0"):
        schedule("infinite", eta_min_ratio=0.0)


@pytest.mark.parametrize("kind", ["cosine", "constant", "wsd", "infinite"])
def test_a_cool_down_falls_from_the_rate_at_its_branch_to_the_least(kind: Any) -> None:
    schedule = resolve(ScheduleConfig(kind=kind, eta_max=0.01), total_tokens=1000)
    decay = cool_down(schedule, branch_tokens=400, decay_tokens=200, eta_min=0.001)
    rates = [lr_at(tokens, decay) for tokens in range(400, 601)]
    assert rates[0] == pytest.approx(lr_at(400, schedule))
    assert rates[-1] == 0.001
    assert all(later < earlier for earlier, later in pairwise(rates))
    assert lr_at(700, decay) == 0.001


def test_a_cool_down_has_the_form_of_its_schedules_decay() -> None:
    schedules = {
        kind: resolve(ScheduleConfig(kind=kind, eta_max=0.01), total_tokens=1000)
        for kind in ("constant", "wsd", "infinite")
    }
    quarter = {
        kind: lr_at(450, cool_down(found, branch_tokens=400, decay_tokens=200, eta_min=0.001))
        for kind, found in schedules.items()
    }
    assert quarter["wsd"] == pytest.approx(0.001 + 0.009 * (1 - math.sqrt(0.25)))
    rate = lr_at(400, schedules["infinite"])
    assert quarter["infinite"] == pytest.approx(rate * (0.001 / rate) ** 0.25)
    assert quarter["constant"] == pytest.approx(0.001 + 0.009 * (1 + math.cos(math.pi / 4)) / 2)


def test_what_has_cooled_down_already_is_not_branched() -> None:
    schedule = resolve(ScheduleConfig(kind="wsd", eta_max=0.01), total_tokens=1000)
    with pytest.raises(ValueError, match=r"after 1,000 tokens is 0\.001 and .* must begin above"):
        cool_down(schedule, branch_tokens=1000, decay_tokens=200, eta_min=0.001)
