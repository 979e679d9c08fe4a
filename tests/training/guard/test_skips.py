"""Skips: durable once, obeyed by every branch behind them and by no other."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import AlreadyExistsError, CorruptError
from storage.manifest import readable_json, unseal
from storage.objects import open_store
from tasks.expose import draws_by_row
from tests.training.tiny_run import LAYOUT, tiny_plan, with_steps
from training.checkpoint.index import Progress
from training.config import TrainPlan
from training.data.order import Order
from training.guard.rewind import kept_for_rewind, steps_back
from training.guard.skips import Reason, Skip, Skips, learned_by_stream, read_skips, record_skip


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> TrainPlan:
    return tiny_plan(tmp_path_factory.mktemp("plan"))[0]


def skip(number: int, reason: Reason, first_step: int, end_step: int) -> Skip:
    return Skip(
        number=number,
        reason=reason,
        first_step=first_step,
        end_step=end_step,
        found_at_step=end_step,
        samples_sha256="",
        samples={},
        finding="made up",
    )


def test_skips_are_read_back_and_never_changed(tmp_path: Path) -> None:
    plan, uri = tiny_plan(tmp_path)
    store = open_store(uri)
    assert read_skips(store, plan) == Skips()
    first = replace(skip(0, "not finite", 3, 4), samples={"prose@x": [5, 1]})
    for _ in range(2):
        record_skip(store, plan, first)
    record_skip(store, plan, skip(1, "spike", 6, 9))
    assert read_skips(store, plan).recorded == (first, skip(1, "spike", 6, 9))
    with pytest.raises(AlreadyExistsError, match=r"skips/1\.json"):
        record_skip(store, plan, skip(1, "spike", 6, 10))
    key = f"{LAYOUT.skips('u1')}/0.json"
    store.put(key, store.get(key).replace(b'"end_step": 4', b'"end_step": 5'))
    with pytest.raises(CorruptError, match=r"skips/0\.json was altered"):
        read_skips(store, plan)


def test_going_back_undoes_what_was_skipped_behind_that_point() -> None:
    skips = Skips((skip(0, "not finite", 3, 4), skip(1, "not finite", 30, 31)))
    assert skips.steps_before(100) == [3, 30]
    skips = skips.with_skip(skip(2, "spike", 20, 25))
    assert skips.steps_before(100) == [3, 20, 21, 22, 23, 24]
    assert skips.steps_before(22) == [3, 20, 21]
    assert [skips.covers(step) for step in (3, 19, 20, 24, 25, 30)] == [
        True, False, True, True, False, False,
    ]  # fmt: skip
    assert skips.num_rewinds == 1
    skips = skips.with_skip(skip(3, "corruption", 21, 21))
    assert skips.numbers_before(21) == (0, 2)
    assert skips.numbers_before(22) == (0, 2, 3)
    # No skip behind the point to which the weights were sound.
    assert skips.with_skip(skip(4, "corruption", 3, 3)).steps_before(100) == []


@given(
    windows=st.lists(st.tuples(st.integers(0, 11), st.integers(0, 4)), max_size=4),
    step=st.integers(0, 12),
)
def test_what_was_learned_is_the_order_without_what_was_passed_over(
    plan: TrainPlan, windows: list[tuple[int, int]], step: int
) -> None:
    order = Order(plan.mixture, plan.global_batch_samples)
    reasons: list[Reason] = ["spike", "not finite"]
    skips = Skips(
        tuple(
            skip(number, reasons[number % 2], first, min(12, first + length))
            for number, (first, length) in enumerate(windows)
        )
    )
    streams = np.concatenate(
        [order.step(each)[0] for each in range(step) if not skips.covers(each)] or [[]]
    )
    counted = np.bincount(streams.astype(np.int64), minlength=2)
    assert learned_by_stream(order, skips, step).tolist() == counted.tolist()
    # The ledger is made of these.
    draws = draws_by_row(with_steps(plan, step), skips)
    assert [int(drawn.sum()) for drawn in draws] == counted.tolist()


def test_states_from_before_there_were_skips_are_readable() -> None:
    progress = Progress(step=3, tokens_seen={}, plan={}, format=2)
    fields = asdict(progress)
    del fields["skips"]
    assert unseal(readable_json(fields), "state.json", Progress).skips == ()


@given(every=st.integers(1, 40), num_steps=st.integers(100, 10_000), now=st.integers(1, 400))
def test_a_rewind_always_finds_a_checkpoint_that_is_old_enough(
    plan: TrainPlan, every: int, num_steps: int, now: int
) -> None:
    plan = replace(plan, num_steps=num_steps, checkpoint_every_steps=every)
    kept: list[int] = []
    for step in range(every, min(now, num_steps - 1) + 1, every):
        taken = [*kept, step]
        kept = sorted({*taken[-2:], *kept_for_rewind(taken, plan)})
        assert len(kept) <= 4
        wanted = step - steps_back(plan) - 5
        old = [each for each in kept if each <= wanted]
        # Else the run goes back to its start.
        assert old or wanted < 2 * every
        assert not old or wanted - old[-1] < steps_back(plan) + 5 + 2 * every
    assert kept_for_rewind([*kept, num_steps], plan) == set()
