from dataclasses import replace
from pathlib import Path

import pytest

from storage.local_objects import LocalObjects
from tasks.mix import ReplayConfig
from tasks.plan import PlanRequest, make_plan
from tasks.plan_changes import changes_between
from tasks.update_plan import BudgetConfig, UpdatePlan
from tests.support.lineages import LAYOUT, MODEL, SEQ_LEN, add_snapshot, newest
from training.config import Recipe
from training.plan_difference import Change

RECIPE = Recipe(seq_len=SEQ_LEN, global_batch_samples=4, micro_batch_size=2)
REQUEST = PlanRequest(
    recipe=RECIPE, budget=BudgetConfig(), replay=ReplayConfig(share=0.0), new_model=MODEL
)


@pytest.fixture
def plan(tmp_path: Path) -> UpdatePlan:
    store = LocalObjects(tmp_path)
    add_snapshot(store, 1, tokenizer="tokenizers/t")
    plan = make_plan(store, LAYOUT, newest(store), REQUEST)
    assert isinstance(plan, UpdatePlan)
    return plan


def with_parts(plan: UpdatePlan, parts: int) -> UpdatePlan:
    """Another identity with another mixture."""
    mixture = plan.train.mixture
    streams = tuple(replace(stream, parts=parts) for stream in mixture.streams)
    train = replace(plan.train, mixture=replace(mixture, streams=streams))
    return replace(plan, id=f"parts-{parts}", train=train)


def test_the_same_identity_has_no_changes(plan: UpdatePlan) -> None:
    assert changes_between(plan, replace(plan, suite="another"), REQUEST) == ()


def test_a_mixture_is_named_by_what_changed_it(plan: UpdatePlan) -> None:
    wanted = with_parts(plan, 7)
    shared = replace(REQUEST, replay=ReplayConfig(share=0.5))
    assert changes_between(plan, wanted, shared) == (Change("replay.share", 0.0, 0.5),)
    buffered = replace(wanted, replay="r2")
    assert changes_between(plan, buffered, REQUEST) == (Change("the replay buffer", None, "r2"),)


def test_what_no_field_explains_is_named_in_the_plan(plan: UpdatePlan) -> None:
    found = changes_between(plan, with_parts(plan, 7), REQUEST)
    assert [change.path for change in found] == ["mixture.streams"]
    unknown = changes_between(plan, replace(plan, id="other"), REQUEST)
    assert unknown == (Change("the plan", plan.id, "other"),)


def test_the_length_of_a_plan_from_before_budgets_were_kept_is_named_in_steps(
    plan: UpdatePlan,
) -> None:
    old = replace(plan, budget=None)
    longer = replace(plan, id="other", train=replace(plan.train, num_steps=9))
    assert changes_between(old, longer, REQUEST) == (Change("budget (in steps)", 3, 9),)
