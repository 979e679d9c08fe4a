from dataclasses import replace
from pathlib import Path

import pytest

from storage.head import Head, SnapshotRecord
from storage.local_objects import LocalObjects
from storage.transitions import with_verdict
from tasks.branch import branch_plan
from tasks.plan import NothingToDo, PlanRequest
from tasks.plan_text import describe
from tasks.take_over import begin
from tasks.unfinished import resumed_plan
from tasks.update_plan import UpdatePlan
from tests.support.lineages import LAYOUT, SEQ_LEN, add_snapshot, candidate, newest
from tests.tasks.test_unfinished import EDITED, RECIPE, REQUEST, begun
from training.checkpoint.index import step_prefix
from training.config import ScheduleConfig
from training.schedule import lr_at

BATCH_TOKENS = 4 * SEQ_LEN
WSD = replace(REQUEST, recipe=replace(RECIPE, schedule=ScheduleConfig(kind="wsd", eta_max=0.01)))


@pytest.fixture
def store(tmp_path: Path) -> LocalObjects:
    store = LocalObjects(tmp_path / "store")
    add_snapshot(store, 1, tokenizer="tokenizers/t")
    return store


def branched(
    store: LocalObjects, point: str, tokens: int | None = None, head: Head | None = None
) -> UpdatePlan:
    plan = branch_plan(store, LAYOUT, head or newest(store), point, tokens)
    assert isinstance(plan, UpdatePlan)
    return plan


def test_a_branch_decays_from_its_checkpoint_which_stays_the_trunk(store: LocalObjects) -> None:
    plan = begun(store, 3, 6, request=WSD)
    branch = branched(store, f"{plan.id}/step-3", 2 * BATCH_TOKENS + 1)
    train = branch.train
    checkpoint = step_prefix(plan.train.checkpoint_prefix, 3)
    assert (train.initial, train.trunk) == (checkpoint, checkpoint)
    assert (train.first_step, train.num_steps) == (3, 6)
    assert train.mixture == plan.train.mixture
    assert train.optimizer.moments == "keep"
    assert branch.snapshots == plan.snapshots
    rates = [lr_at(step * BATCH_TOKENS, train.schedule) for step in range(3, 7)]
    assert rates[0] == lr_at(3 * BATCH_TOKENS, plan.train.schedule) == 0.01
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(0.001)
    assert any("continues from that checkpoint" in line for line in describe(branch))


def test_a_branch_is_as_long_as_the_recipes_decay_unless_told(store: LocalObjects) -> None:
    plan = begun(store, 3, request=WSD)
    # A fifth of 8 steps, in whole steps.
    assert branched(store, f"{plan.id}/step-3").train.num_steps == 3 + 2


def test_an_interrupted_branch_goes_on_whatever_the_yaml_says(store: LocalObjects) -> None:
    plan = begun(store, 3, request=WSD)
    branch = branched(store, f"{plan.id}/step-3")
    begin(store, LAYOUT, branch)
    assert branched(store, f"{plan.id}/step-3") == branch
    for request in (WSD, EDITED):
        assert resumed_plan(store, LAYOUT, newest(store), request, branch.id) == branch


@pytest.mark.parametrize(
    ("point", "sentence"),
    [
        ("{id}/step-4", r"no checkpoint of step 4 to branch from; there are step-3, step-6 \("),
        ("{id}/step-6", r"no intact checkpoint of step 6 .*; there are step-3 \("),
        ("feedbeef/step-3", r"lineage demo has no update feedbeef to branch from"),
        ("{id}/3rd", r"must be <update>/step-<n>, such as .*, got '[0-9a-f]{16}/3rd'"),
        ("{id}", r"must be <update>/step-<n>"),
    ],
)
def test_a_missing_checkpoint_is_refused_naming_those_there_are(
    store: LocalObjects, point: str, sentence: str
) -> None:
    plan = begun(store, 3, 6, request=WSD)
    store.put(f"{step_prefix(plan.train.checkpoint_prefix, 6)}/state.json", b"damaged")
    with pytest.raises(ValueError, match=sentence):
        branched(store, point.format(id=plan.id))


def published(store: LocalObjects, request: PlanRequest) -> tuple[UpdatePlan, Head]:
    plan = begun(store, 3, 8, request=request)
    record = replace(
        candidate(newest(store), "PASS"),
        update=plan.id,
        version=plan.version,
        trunk=plan.train.trunk,
        replay=None,
    )
    return plan, with_verdict(newest(store), record, replay="r1", by="test")


def test_a_published_update_is_branched_without_learning_its_data_twice(
    store: LocalObjects,
) -> None:
    plan, head = published(store, WSD)
    branch = branched(store, f"{plan.id}/step-3", head=head)
    assert branch.champion == plan.version
    # Nothing is pending any more, but the gain is looked for where the update looked for it.
    assert (branch.snapshots, branch.new_snapshots) == ((), plan.snapshots)
    assert branch.train.taken_over is not None
    assert branch.train.taken_over.is_published
    record = replace(
        candidate(head, "FAIL"), update=branch.id, version=branch.version, snapshots=()
    )
    judged = with_verdict(head, record, replay=None, by="test")
    answer = branch_plan(store, LAYOUT, judged, f"{plan.id}/step-3")
    assert isinstance(answer, NothingToDo)
    assert f"version {branch.version} is FAIL" in answer.reason


def test_a_branch_takes_back_nothing_that_was_learned_since(store: LocalObjects) -> None:
    plan, head = published(store, WSD)
    moved = replace(head, champion="2-ffffffff", trunk=f"{LAYOUT.checkpoints('ffff')}/step-8")
    with pytest.raises(ValueError, match=r"has moved on to 2-ffffffff.*'perennial rollback'"):
        branched(store, f"{plan.id}/step-3", head=moved)
    held = replace(head, snapshots=(SnapshotRecord(id=plan.snapshots[0], state="held"),))
    with pytest.raises(ValueError, match=rf"which is held: 'perennial unhold {plan.snapshots[0]}'"):
        branched(store, f"{plan.id}/step-3", head=held)
