from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from torch import nn

from storage.local_objects import LocalObjects
from tasks.mix import ReplayConfig
from tasks.plan import NothingToDo, PlanRequest, make_plan
from tasks.plan_changes import ConfigurationChangedError
from tasks.take_over import begin
from tasks.unfinished import find_unfinished, interrupted, resumed_plan
from tasks.update_plan import BudgetConfig, UpdatePlan, load_plan, save_plan
from tests.support.lineages import LAYOUT, MODEL, SEQ_LEN, add_snapshot, newest
from training.checkpoint.state import TrainState, save
from training.config import Recipe, ScheduleConfig, TrainPlan
from training.model_files import build_model
from training.optim import build_optimizer

RECIPE = Recipe(seq_len=SEQ_LEN, global_batch_samples=4, micro_batch_size=2)
REQUEST = PlanRequest(
    recipe=RECIPE,
    budget=BudgetConfig(tokens=8 * 4 * SEQ_LEN),
    replay=ReplayConfig(share=0.0),
    new_model=MODEL,
)
EDITED = replace(REQUEST, recipe=replace(RECIPE, schedule=ScheduleConfig(eta_max=5e-4)))


@pytest.fixture
def store(tmp_path: Path) -> LocalObjects:
    store = LocalObjects(tmp_path / "store")
    add_snapshot(store, 1, tokenizer="tokenizers/t")
    return store


def begun(store: LocalObjects, *steps: int, request: PlanRequest = REQUEST) -> UpdatePlan:
    """An update that was begun, with checkpoints of these steps."""
    plan = make_plan(store, LAYOUT, newest(store), request)
    assert isinstance(plan, UpdatePlan)
    save_plan(store, LAYOUT, plan)
    for step in steps:
        save_at(store, plan.train, step)
    return plan


def save_at(store: LocalObjects, plan: TrainPlan, step: int) -> str:
    model = cast("nn.Module", build_model(plan.model, seed=plan.seed))
    state = TrainState(model=model, optimizer=build_optimizer(model, plan.optimizer), step=step)
    return save(store, plan, state, {}, Path(store.uri.removeprefix("file://")).parent / "work")


def test_an_update_goes_on_until_something_moves_under_it(store: LocalObjects) -> None:
    head = newest(store)
    assert resumed_plan(store, LAYOUT, head, REQUEST, "") is None
    assert resumed_plan(store, LAYOUT, head, REQUEST, "never-begun") is None
    plan = begun(store)
    assert resumed_plan(store, LAYOUT, head, REQUEST, plan.id) == plan
    moved = replace(head, champion="9-ffffffff")
    assert resumed_plan(store, LAYOUT, moved, REQUEST, plan.id) is None


def test_new_data_is_no_change(store: LocalObjects) -> None:
    plan = begun(store, 3)
    add_snapshot(store, 2)
    assert resumed_plan(store, LAYOUT, newest(store), REQUEST, plan.id) == plan


def test_without_a_checkpoint_a_changed_configuration_is_planned_anew(store: LocalObjects) -> None:
    plan = begun(store)
    head = newest(store)
    assert resumed_plan(store, LAYOUT, head, EDITED, plan.id) is None
    assert interrupted(store, LAYOUT, head, EDITED, plan.id) is None


@pytest.mark.parametrize(
    ("request_", "named"),
    [
        (EDITED, r"recipe\.schedule\.eta_max is 0\.0005, .* begun with 0\.001"),
        (
            replace(REQUEST, recipe=replace(RECIPE, global_batch_samples=8)),
            r"recipe\.global_batch_samples is 8, .* begun with 4",
        ),
        (replace(REQUEST, recipe=replace(RECIPE, seed=5)), r"recipe\.seed is 5, .* with 0"),
        (
            replace(REQUEST, budget=BudgetConfig(tokens=16 * 4 * SEQ_LEN)),
            r"budget\.tokens is 1,024, .* begun with 512",
        ),
        (
            replace(REQUEST, new_model=replace(MODEL, hidden_size=64)),
            r"base\.model\.hidden_size is 64, .* with 32 \(step 3 of 8\); put it back, or discard",
        ),
        (
            replace(EDITED, budget=BudgetConfig(tokens=16 * 4 * SEQ_LEN)),
            r"\(step 3 of 8\) was begun with other values: recipe\.schedule\.eta_max is 0\.0005 "
            r"\(was 0\.001\), budget\.tokens is 1,024 \(was 512\); put them back, or go on",
        ),
    ],
)
def test_every_change_is_refused_by_the_name_of_its_field(
    store: LocalObjects, request_: PlanRequest, named: str
) -> None:
    plan = begun(store, 3)
    with pytest.raises(ConfigurationChangedError, match=named) as refused:
        resumed_plan(store, LAYOUT, newest(store), request_, plan.id)
    assert plan.id in str(refused.value)
    assert "(step 3 of 8)" in str(refused.value)


def test_a_share_of_no_buffer_is_no_change(store: LocalObjects) -> None:
    plan = begun(store, 3)
    shared = replace(REQUEST, replay=ReplayConfig(share=0.5))
    assert resumed_plan(store, LAYOUT, newest(store), shared, plan.id) == plan


def test_a_budget_that_asks_for_the_same_length_is_no_change(store: LocalObjects) -> None:
    plan = begun(store, 3)
    spelled = replace(REQUEST, budget=BudgetConfig(first_tokens=8 * 4 * SEQ_LEN))
    assert resumed_plan(store, LAYOUT, newest(store), spelled, plan.id) == plan


def test_what_is_discarded_is_planned_anew(store: LocalObjects) -> None:
    plan = begun(store, 3)
    assert resumed_plan(store, LAYOUT, newest(store), EDITED, plan.id, "nothing") is None


def test_a_choice_that_was_followed_is_not_followed_again(store: LocalObjects) -> None:
    plan = begun(store, 3)
    head = newest(store)
    taken = resumed_plan(store, LAYOUT, head, EDITED, plan.id, "new-phase")
    assert taken is not None
    begin(store, LAYOUT, taken)
    assert resumed_plan(store, LAYOUT, head, EDITED, taken.id, "new-phase") == taken
    assert resumed_plan(store, LAYOUT, head, EDITED, taken.id) == taken


def test_until_it_has_a_checkpoint_what_takes_over_counts_for_what_it_took(
    store: LocalObjects,
) -> None:
    plan = begun(store, 3)
    head = newest(store)
    taken = resumed_plan(store, LAYOUT, head, EDITED, plan.id, "continue")
    assert taken is not None
    begin(store, LAYOUT, taken)
    # Put back before the first checkpoint: the first update goes on.
    assert resumed_plan(store, LAYOUT, head, REQUEST, taken.id) == plan
    third = replace(EDITED, recipe=replace(RECIPE, schedule=ScheduleConfig(eta_max=2e-4)))
    found = find_unfinished(store, LAYOUT, head, third, taken.id)
    assert found is not None
    assert (found.plan, found.step) == (plan, 3)
    save_at(store, taken.train, 5)
    with pytest.raises(ConfigurationChangedError, match=rf"{taken.id} .* \(step 5 of 8\)"):
        resumed_plan(store, LAYOUT, head, REQUEST, taken.id)
    # A chain: the second one is taken over by a third.
    again = resumed_plan(store, LAYOUT, head, third, taken.id, "continue")
    assert again is not None
    assert again.train.taken_over is not None
    assert (again.train.taken_over.update, again.train.first_step) == (taken.id, 5)
    assert load_plan(store, LAYOUT, taken.id) == taken
    assert not isinstance(make_plan(store, LAYOUT, head, REQUEST), NothingToDo)
