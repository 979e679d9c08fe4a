"""A spike is told from noise, from odd batches, and from what the learning rate does by itself."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.tiny_run import tiny_plan
from training.guard.spike import (
    HISTORY_STEPS,
    JUDGED_STEPS,
    LIMIT_SHARE,
    NEEDED_STEPS,
    first_beyond,
    floor_at,
    settling_steps,
)

LEVEL = 3.0


def noise(seed: int, count: int, *, freedom: float) -> np.ndarray:
    """Student's t; with many degrees of freedom it is normal."""
    return np.random.default_rng(seed).standard_t(freedom, count)


def alarms(losses: list[float], *, floor: float = 0.0) -> list[int]:
    """Lengths of the history at which there is one."""
    return [
        length
        for length in range(1, len(losses) + 1)
        if first_beyond(losses[:length][-HISTORY_STEPS:], floor=floor) is not None
    ]


@pytest.mark.parametrize("freedom", [3.0, 1e6])
@pytest.mark.parametrize("spread", [0.005, 0.03, 0.1])
def test_noise_around_a_level_is_no_spike(freedom: float, spread: float) -> None:
    # 4,000 of the 200,000 steps of the simulation that had no alarm with any of these.
    for seed in range(2):
        values = LEVEL * (1 + spread * noise(seed, 2000, freedom=freedom))
        assert alarms(values.tolist()) == []


@pytest.mark.parametrize(
    "curve",
    [
        lambda t: 3.0 + 0.5 * t / 600,
        lambda t: 2.0 + 9.0 * math.exp(-t / 60),
        lambda t: 3.0 + 0.25 * math.exp(-(((t - 300) / 80) ** 2)),
    ],
    ids=["slow rise", "steep fall", "re-warming hump"],
)
def test_slow_moves_are_no_spike(curve: object) -> None:
    assert callable(curve)
    drawn = noise(3, 600, freedom=1e6)
    assert alarms([curve(t) + 0.03 * drawn[t] for t in range(600)]) == []


@settings(max_examples=40)
@given(
    seed=st.integers(0, 1000),
    height=st.floats(1.3, 4.0),
    length=st.integers(NEEDED_STEPS, 30),
    before=st.integers(18, 80),
)
def test_a_jump_that_stays_is_found_within_five_steps_and_dated(
    seed: int, height: float, length: int, before: int
) -> None:
    drawn = LEVEL * (1 + 0.02 * noise(seed, before + length, freedom=1e6))
    drawn[before:] *= height
    losses = drawn.tolist()
    found_at = alarms(losses)[0]
    assert found_at == before + NEEDED_STEPS
    assert first_beyond(losses[:found_at]) == NEEDED_STEPS - 1
    assert NEEDED_STEPS <= JUDGED_STEPS


def test_one_or_two_odd_batches_are_no_spike() -> None:
    losses = (LEVEL * (1 + 0.02 * noise(5, 200, freedom=1e6))).tolist()
    losses[90] = losses[95] = losses[96] = 40.0
    assert alarms(losses) == []
    losses[94] = 40.0
    assert alarms(losses) == [97, 98, 99]


def test_losses_that_hardly_vary_have_room() -> None:
    flat = [LEVEL] * HISTORY_STEPS
    assert first_beyond([*flat, *[LEVEL * (1 + LIMIT_SHARE) - 1e-6] * 3]) is None
    assert first_beyond([*flat, *[LEVEL * (1 + LIMIT_SHARE) + 1e-6] * 3]) == 2


def test_while_the_rate_settles_only_worse_than_knowing_nothing_is_a_spike(tmp_path: Path) -> None:
    plan, _ = tiny_plan(tmp_path, num_steps=1000)
    plan = replace(plan, schedule=replace(plan.schedule, warmup_tokens=20 * 128))
    assert settling_steps(plan) == 2 * 20 + 64
    assert floor_at(104, plan) == math.log(32)
    assert floor_at(105, plan) == 0.0
    risen = [*[1.0] * 40, *[2.0] * 5]
    assert first_beyond(risen, floor=floor_at(45, plan)) is None
    assert first_beyond(risen, floor=floor_at(105, plan)) == 4
    assert first_beyond([*[1.0] * 40, *[4.0] * 5], floor=floor_at(45, plan)) == 4
