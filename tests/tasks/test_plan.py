import json
from dataclasses import replace
from pathlib import Path

import pytest

from storage.head import Head
from storage.local_objects import LocalObjects
from storage.manifest import canonical_json, publish
from storage.transitions import with_verdict
from tasks.mix import ReplayConfig
from tasks.plan import NothingToDo, PlanRequest, make_plan
from tasks.update_plan import BudgetConfig, UpdatePlan, load_plan, save_plan
from tests.support.lineages import LAYOUT, MODEL, SEQ_LEN, add_snapshot, candidate, newest
from training.config import Recipe, ScheduleConfig

TOKENIZER = "tokenizers/t"
RECIPE = Recipe(seq_len=SEQ_LEN, global_batch_samples=4, micro_batch_size=2)
REQUEST = PlanRequest(
    recipe=RECIPE, budget=BudgetConfig(), replay=ReplayConfig(share=0.0), new_model=MODEL
)


@pytest.fixture
def store(tmp_path: Path) -> LocalObjects:
    store = LocalObjects(tmp_path)
    add_snapshot(store, 1, tokenizer=TOKENIZER)
    return store


def planned(store: LocalObjects, request: PlanRequest = REQUEST, head: Head | None = None):
    plan = make_plan(store, LAYOUT, head or newest(store), request)
    assert isinstance(plan, UpdatePlan)
    return plan


def test_one_epoch_is_every_new_sample_once_rounded_up_to_whole_steps(store: LocalObjects) -> None:
    # 10 samples, 4 a step.
    assert planned(store).train.num_steps == 3


def test_a_budget_in_tokens_takes_the_place_of_epochs(store: LocalObjects) -> None:
    budget = BudgetConfig(tokens=5 * 4 * SEQ_LEN, first_tokens=7 * 4 * SEQ_LEN)
    plan = planned(store, replace(REQUEST, budget=budget))
    # There is no champion yet, so it is the first version's budget.
    assert plan.train.num_steps == 7
    assert plan.total_tokens == 7 * 4 * SEQ_LEN


def test_the_same_state_and_request_give_the_same_plan(store: LocalObjects) -> None:
    assert planned(store) == planned(store)


@pytest.mark.parametrize(
    "request_",
    [
        replace(REQUEST, recipe=replace(RECIPE, seed=1)),
        replace(REQUEST, recipe=replace(RECIPE, schedule=ScheduleConfig(eta_max=5e-4))),
        replace(REQUEST, budget=BudgetConfig(epochs=2.0)),
    ],
)
def test_whatever_changes_the_weights_changes_the_identity(
    store: LocalObjects, request_: PlanRequest
) -> None:
    assert planned(store, request_).id != planned(store).id


def test_how_often_is_saved_does_not_change_the_identity(store: LocalObjects) -> None:
    often = replace(REQUEST, budget=BudgetConfig(checkpoint_every_tokens=1))
    assert planned(store, often).id == planned(store).id


def test_another_sequence_length_is_refused_by_name(store: LocalObjects) -> None:
    request = replace(REQUEST, recipe=replace(RECIPE, seq_len=32))
    with pytest.raises(ValueError, match=r"recipe\.seq_len is 32, but snapshot .* with 16"):
        make_plan(store, LAYOUT, newest(store), request)


def test_without_a_model_the_remedy_is_told(store: LocalObjects) -> None:
    with pytest.raises(ValueError, match=r"set base\.model .* or base\.directory"):
        make_plan(store, LAYOUT, newest(store), replace(REQUEST, new_model=None))


def test_what_was_judged_is_not_planned_again(store: LocalObjects) -> None:
    plan = planned(store)
    record = replace(
        candidate(newest(store), "FAIL"), update=plan.id, version=plan.version, replay=None
    )
    judged = with_verdict(newest(store), record, replay=None, by="test")
    answer = make_plan(store, LAYOUT, judged, REQUEST)
    assert isinstance(answer, NothingToDo)
    assert f"version {plan.version} is FAIL (refused)" in answer.reason


def test_a_plan_that_an_earlier_version_saved_with_fewer_fields_goes_on(
    store: LocalObjects,
) -> None:
    plan = planned(store)
    fields = json.loads(canonical_json(plan))
    for name in ("budget", "judged_on"):
        del fields[name]
    del fields["train"]["taken_over"]
    del fields["train"]["mixture"]["first_slot"]
    publish(store, LAYOUT.plan(plan.id), fields)
    found = planned(store)
    assert found == replace(plan, budget=None)
    save_plan(store, LAYOUT, found)
    assert load_plan(store, LAYOUT, plan.id) == found


def test_a_plan_that_was_saved_is_found_again_whatever_the_cadence_of_checkpoints(
    store: LocalObjects,
) -> None:
    plan = planned(store)
    save_plan(store, LAYOUT, plan)
    often = replace(REQUEST, budget=BudgetConfig(checkpoint_every_tokens=1))
    assert planned(store, often) == plan


def test_every_update_draws_other_samples(store: LocalObjects) -> None:
    first = planned(store).train.mixture.seed
    add_snapshot(store, 2, tokenizer=TOKENIZER)
    assert planned(store).train.mixture.seed != first


def test_the_infinite_schedule_leaves_a_trunk_before_the_anneal(store: LocalObjects) -> None:
    schedule = ScheduleConfig(kind="infinite", decay_fraction=0.25)
    budget = BudgetConfig(first_tokens=8 * 4 * SEQ_LEN)
    plan = planned(
        store, replace(REQUEST, recipe=replace(RECIPE, schedule=schedule), budget=budget)
    )
    assert (plan.train.trunk_step, plan.train.num_steps) == (6, 8)
