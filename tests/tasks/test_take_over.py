from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.errors import CorruptError
from storage.layout import Layout
from storage.lease import Lease
from storage.local_objects import LocalObjects
from storage.taken_over import needed_updates
from tasks.expose import draws_by_row
from tasks.plan import PlanRequest
from tasks.plan_changes import ConfigurationChangedError
from tasks.take_over import begin, order_from
from tasks.unfinished import TakeOver, resumed_plan
from tasks.update_plan import BudgetConfig, UpdatePlan
from tests.support.lineages import LAYOUT, MODEL, SEQ_LEN, add_snapshot, newest
from tests.tasks.test_unfinished import EDITED, RECIPE, REQUEST, begun, save_at
from tests.training.tiny_run import tensors_of, tiny_plan
from training.checkpoint.index import committed_steps, step_prefix
from training.config import Mixture, ScheduleConfig, Stream, TakenOver, TrainPlan
from training.errors import TrainingStoppedError
from training.guard.skips import Skip, Skips, read_skips, record_skip
from training.launch import run_training
from training.metrics import CHECKSUM, LOSS, LR, STEP, read_metrics
from training.schedule import cool_down, lr_at

DEEPER = replace(REQUEST, new_model=replace(MODEL, num_layers=3))


@pytest.fixture
def store(tmp_path: Path) -> LocalObjects:
    store = LocalObjects(tmp_path / "store")
    add_snapshot(store, 1, tokenizer="tokenizers/t")
    return store


def taken(store: LocalObjects, request: PlanRequest, update: str, choice: TakeOver) -> UpdatePlan:
    plan = resumed_plan(store, LAYOUT, newest(store), request, update, choice)
    assert plan is not None
    return plan


def skip(number: int, first_step: int, end_step: int) -> Skip:
    return Skip(
        number=number,
        reason="spike",
        first_step=first_step,
        end_step=end_step,
        found_at_step=end_step,
        samples_sha256="",
        samples={},
        finding="made",
    )


def test_continuing_keeps_the_order_the_tokens_and_what_was_passed_over(
    store: LocalObjects,
) -> None:
    plan = begun(store)
    record_skip(store, plan.train, skip(0, 1, 5))
    # On the branch that the run went back to; the newer one was left.
    save_at(store, plan.train, 1)
    save_at(store, plan.train, 3)
    after = taken(store, EDITED, plan.id, "continue")
    assert after.id != plan.id
    assert after.train.initial == step_prefix(plan.train.checkpoint_prefix, 1)
    assert after.train.mixture == plan.train.mixture
    assert (after.train.first_step, after.train.num_steps) == (1, 8)
    assert after.train.schedule.eta_max == 5e-4
    assert after.train.optimizer.moments == "keep"
    begin(store, LAYOUT, after)
    begin(store, LAYOUT, after)
    assert read_skips(store, after.train).recorded == read_skips(store, plan.train).recorded


def test_another_batch_size_goes_on_at_the_same_tokens_with_the_next_sample(
    store: LocalObjects,
) -> None:
    plan = begun(store, 5)
    doubled = replace(REQUEST, recipe=replace(RECIPE, global_batch_samples=8))
    after = taken(store, doubled, plan.id, "continue")
    # 20 samples are 2.5 steps of 8.
    assert (after.train.first_step, after.train.num_steps) == (2, 4)
    assert [stream.drawn_before for stream in after.train.mixture.streams] == [20]
    assert after.train.mixture.first_slot == 16
    before, now = (
        draws_by_row(train, Skips(), end_step)[0]
        for train, end_step in ((plan.train, 5), (after.train, 4))
    )
    # 20 + 16 samples of 10 rows: each was seen 3 or 4 times.
    assert sorted((before + now).tolist()) == [3] * 4 + [4] * 6


def test_a_new_phase_begins_its_schedule_and_its_order_anew(store: LocalObjects) -> None:
    infinite = replace(
        REQUEST, recipe=replace(RECIPE, schedule=ScheduleConfig(kind="infinite", eta_max=0.01))
    )
    plan = begun(store, 5, request=infinite)
    add_snapshot(store, 2)
    after = taken(store, EDITED, plan.id, "new-phase")
    assert len(after.snapshots) == 2
    assert after.train.mixture.seed != plan.train.mixture.seed
    assert lr_at(1, after.train.schedule) < 5e-4 == after.train.schedule.eta_max
    assert (after.train.first_step, after.train.num_steps) == (0, 8)
    assert after.train.trunk == step_prefix(after.train.checkpoint_prefix, 8)
    reset = taken(store, EDITED, plan.id, "weights-only")
    assert (after.train.optimizer.moments, reset.train.optimizer.moments) == ("keep", "reset")
    assert reset.id != after.id


def test_in_the_anneal_the_trunk_stays_the_one_before_it(store: LocalObjects) -> None:
    def asked(eta_max: float) -> PlanRequest:
        schedule = ScheduleConfig(kind="infinite", eta_max=eta_max, decay_fraction=0.5)
        return replace(REQUEST, recipe=replace(RECIPE, schedule=schedule))

    plan = begun(store, 4, 6, request=asked(0.01))
    assert plan.train.trunk_step == 4
    after = taken(store, asked(0.02), plan.id, "continue")
    assert after.train.trunk == step_prefix(plan.train.checkpoint_prefix, 4)


@pytest.mark.parametrize(
    ("asked", "choice", "sentence"),
    [
        (
            replace(REQUEST, recipe=replace(RECIPE, seed=5)),
            "continue",
            r"recipe\.seed cannot change .*put it back, or take new-phase",
        ),
        (DEEPER, "continue", r"base\.model\.num_layers cannot change .*; put it back, or discard"),
        (DEEPER, "new-phase", r"base\.model\.num_layers cannot change"),
    ],
)
def test_what_cannot_be_taken_over_is_refused_by_name(
    store: LocalObjects, asked: PlanRequest, choice: TakeOver, sentence: str
) -> None:
    plan = begun(store, 3)
    with pytest.raises(ConfigurationChangedError, match=sentence):
        taken(store, asked, plan.id, choice)


def test_another_sequence_length_is_refused_by_name(store: LocalObjects) -> None:
    plan = begun(store, 3)
    asked = replace(REQUEST, recipe=replace(RECIPE, seq_len=32))
    with pytest.raises(ValueError, match=r"recipe\.seq_len is 32"):
        taken(store, asked, plan.id, "continue")


def test_nothing_is_left_of_a_budget_that_is_used_up(store: LocalObjects) -> None:
    plan = begun(store, 6)
    shorter = replace(REQUEST, budget=BudgetConfig(tokens=5 * 4 * SEQ_LEN))
    with pytest.raises(ConfigurationChangedError, match=r"trained on 384 tokens.* for 320 in all"):
        taken(store, shorter, plan.id, "continue")
    assert taken(store, shorter, plan.id, "new-phase").train.num_steps == 5


def test_a_damaged_checkpoint_is_not_taken_over(store: LocalObjects) -> None:
    plan = begun(store, 3, 6)
    for step, left in ((6, 3), (3, None)):
        checkpoint = step_prefix(plan.train.checkpoint_prefix, step)
        store.put(f"{checkpoint}/state.json", b"damaged")
        if left is None:
            with pytest.raises(CorruptError, match="none of its 2 is"):
                taken(store, EDITED, plan.id, "continue")
        else:
            assert taken(store, EDITED, plan.id, "continue").train.first_step == left


def test_all_that_an_update_goes_on_from_is_needed(store: LocalObjects) -> None:
    plan = begun(store, 3)
    after = taken(store, EDITED, plan.id, "continue")
    begin(store, LAYOUT, after)
    with Lease.acquire(store, LAYOUT, "me") as lease:
        lease.set_note(after.id)
        assert needed_updates(store, LAYOUT) == [after.id, plan.id]
    assert needed_updates(store, LAYOUT) == [after.id, plan.id]


@pytest.fixture(scope="module")
def shape(tmp_path_factory: pytest.TempPathFactory) -> TrainPlan:
    """A plan whose mixture and batch a test replaces."""
    return tiny_plan(tmp_path_factory.mktemp("shape"))[0]


def of_parts(parts: list[int]) -> Mixture:
    streams = tuple(
        Stream(
            snapshot="s",
            domain=f"d{index}",
            prefix="",
            parts=count,
            samples=size,
            available=size,
            is_replay=False,
        )
        for index, (count, size) in enumerate(zip(parts, (11, 17, 23), strict=True))
    )
    return Mixture(streams=streams, seed=3)


PARTS = st.lists(st.integers(1, 9), min_size=3, max_size=3)
FEW = st.integers(1, 9)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(PARTS, PARTS, FEW, FEW, FEW, FEW)
def test_under_another_mixture_each_stream_goes_on_with_its_next_sample(
    shape: TrainPlan,
    old_parts: list[int],
    new_parts: list[int],
    steps: int,
    more: int,
    old: int,
    new: int,
) -> None:
    begun_plan = replace(shape, mixture=of_parts(old_parts), global_batch_samples=old)
    asked = replace(shape, mixture=of_parts(new_parts), global_batch_samples=new)
    first_step = steps * old // new
    origin = TakenOver(update="u", step=steps, mode="continue", first_step=first_step)
    mixture = order_from(begun_plan, steps, asked, first_step)
    goes_on = replace(asked, mixture=mixture, taken_over=origin)
    parts = (
        draws_by_row(begun_plan, Skips(), steps),
        draws_by_row(goes_on, Skips(), first_step + more),
    )
    seen = [before + now for before, now in zip(*parts, strict=True)]
    # None twice before every other was seen once: no row is left out, none comes early.
    assert all(counts.max() - counts.min() <= 1 for counts in seen)
    assert sum(int(counts.sum()) for counts in seen) == steps * old + more * new


@pytest.fixture
def half(tmp_path: Path) -> tuple[TrainPlan, str]:
    """A plan of 12 steps of which 6 were trained, and the store's URI."""
    plan, uri = tiny_plan(tmp_path / "store")
    with pytest.raises(TrainingStoppedError):
        trained(plan, uri, tmp_path, stop_at=6)
    assert committed_steps(LocalObjects(tmp_path / "store"), plan.checkpoint_prefix)[0] == 6
    return plan, uri


def trained(plan: TrainPlan, uri: str, tmp_path: Path, *, stop_at: int | None = None) -> str:
    asked = iter(range(1, 100))
    return run_training(
        plan,
        store_uri=uri,
        num_workers=0,
        work_dir=tmp_path / "work",
        threads_per_worker=1,
        is_asked_to_stop=lambda: stop_at is not None and next(asked) >= stop_at,
    )


def continuing(plan: TrainPlan, step: int, mode: Literal["continue", "branch"]) -> TrainPlan:
    return replace(
        plan,
        update=mode,
        checkpoint_prefix=f"lineages/tiny/updates/{mode}/checkpoints",
        initial=step_prefix(plan.checkpoint_prefix, step),
        taken_over=TakenOver(update=plan.update, step=step, mode=mode, first_step=step),
    )


def test_continuing_under_the_same_values_ends_in_the_same_bits_as_never_stopping(
    half: tuple[TrainPlan, str], tmp_path: Path
) -> None:
    plan, uri = half
    store = LocalObjects(tmp_path / "store")
    after = continuing(plan, 6, "continue")
    # Stopped again on the way, before and behind its first own checkpoint.
    for stop_at in (2, 3):
        with pytest.raises(TrainingStoppedError):
            trained(after, uri, tmp_path, stop_at=stop_at)
    ended = tensors_of(store, trained(after, uri, tmp_path))
    rows = read_metrics(store, Layout("tiny").metrics(after.update))
    assert [row[STEP] for row in rows] == list(range(7, 13))
    assert tensors_of(store, trained(plan, uri, tmp_path)) == ended


def test_a_branch_sees_the_updates_batches_under_its_own_decay(
    half: tuple[TrainPlan, str], tmp_path: Path
) -> None:
    plan, uri = half
    store = LocalObjects(tmp_path / "store")
    tokens = plan.global_batch_tokens
    decay = cool_down(
        plan.schedule, branch_tokens=6 * tokens, decay_tokens=4 * tokens, eta_min=1e-6
    )
    branch = replace(continuing(plan, 6, "branch"), schedule=decay, num_steps=10, trunk_step=10)
    trained(branch, uri, tmp_path)
    trained(plan, uri, tmp_path)
    ours, theirs = (
        {row[STEP]: row for row in read_metrics(store, Layout("tiny").metrics(update))}
        for update in ("branch", plan.update)
    )
    assert sorted(ours) == [7, 8, 9, 10]
    assert all(row[CHECKSUM] == theirs[step][CHECKSUM] for step, row in ours.items())
    # The same weights and batch; the rate makes the difference from there on.
    assert ours[7][LOSS] == theirs[7][LOSS]
    assert ours[10][LR] == 1e-6 < theirs[10][LR]
    assert ours[10][LOSS] != theirs[10][LOSS]
