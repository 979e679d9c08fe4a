from dataclasses import replace
from pathlib import Path

import pytest

from storage.head import commit_change
from storage.local_objects import LocalObjects
from storage.transitions import with_verdict
from tasks.mix import ReplayConfig
from tasks.plan import PlanRequest, make_plan
from tasks.publish import replay_extender
from tasks.remedy.config import RemedyConfig
from tasks.remedy.retrain import retraining_plan
from tasks.update_plan import BudgetConfig, UpdatePlan, save_plan
from tests.support.lineages import LAYOUT, MODEL, SEQ_LEN, add_snapshot, candidate, newest
from training.config import Recipe

CONFIG = RemedyConfig()
REQUEST = PlanRequest(
    recipe=Recipe(seq_len=SEQ_LEN, global_batch_samples=2, micro_batch_size=2),
    budget=BudgetConfig(epochs=4),
    replay=ReplayConfig(share=0.25),
    new_model=MODEL,
)
PLENTY = 10**9


@pytest.fixture
def store(tmp_path: Path) -> LocalObjects:
    """A lineage with one version, whose second update is to be repaired."""
    store = LocalObjects(tmp_path)
    add_snapshot(store, 1, tokenizer="tokenizers/t")
    first = make_plan(store, LAYOUT, newest(store), REQUEST)
    assert isinstance(first, UpdatePlan)
    save_plan(store, LAYOUT, first)
    record = replace(
        candidate(newest(store), "PASS"),
        update=first.id,
        version=first.version,
        trunk=first.train.trunk,
        replay=None,
    )
    replay = replay_extender(store, LAYOUT, budget_tokens=10**6, seq_len=SEQ_LEN)(
        newest(store), first.snapshots
    )
    commit_change(
        store,
        LAYOUT,
        lambda head: with_verdict(head or newest(store), record, replay=replay, by="t"),
    )
    add_snapshot(store, 2, tokenizer="tokenizers/t")
    return store


def failed(store: LocalObjects) -> UpdatePlan:
    plan = make_plan(store, LAYOUT, newest(store), REQUEST)
    assert isinstance(plan, UpdatePlan)
    return plan


def again(store: LocalObjects, remedy: str, max_tokens: int = PLENTY) -> UpdatePlan | str:
    return retraining_plan(
        store,
        LAYOUT,
        newest(store),
        failed(store),
        remedy,  # pyright: ignore[reportArgumentType]
        CONFIG,
        number=3,
        max_tokens=max_tokens,
    )


@pytest.mark.parametrize("remedy", ["more_replay", "lower_peak"])
def test_a_retraining_is_another_update_from_the_same_trunk_on_the_same_data(
    store: LocalObjects, remedy: str
) -> None:
    plan, made = failed(store), again(store, remedy)
    assert isinstance(made, UpdatePlan)
    assert made == again(store, remedy)
    assert made.id != plan.id
    assert made.version == f"3-{made.id[:8]}"
    assert (made.remedy_of, made.merged_from) == (plan.version, ())
    assert made.train.initial == plan.train.initial == plan.trunk
    assert (made.snapshots, made.champion) == (plan.snapshots, plan.champion)
    assert made.next_trunk == made.train.trunk


def test_more_replay_doubles_the_share_and_nothing_else(store: LocalObjects) -> None:
    plan, made = failed(store), again(store, "more_replay")
    assert isinstance(made, UpdatePlan)
    assert made.replay_share == pytest.approx(2 * plan.replay_share, abs=0.01)
    assert made.recipe == plan.recipe
    assert made.remedy == "more replay, share 0.5"


def test_a_lower_peak_halves_the_learning_rate_and_nothing_else(store: LocalObjects) -> None:
    plan, made = failed(store), again(store, "lower_peak")
    assert isinstance(made, UpdatePlan)
    assert made.train.schedule.eta_max == pytest.approx(plan.train.schedule.eta_max / 2)
    assert made.train.mixture == plan.train.mixture
    assert made.train.num_steps == plan.train.num_steps


def test_a_budget_cuts_a_retraining_and_less_than_half_is_not_begun(store: LocalObjects) -> None:
    whole = again(store, "lower_peak")
    assert isinstance(whole, UpdatePlan)
    limit = whole.total_tokens * 2 // 3
    cut = again(store, "lower_peak", limit)
    assert isinstance(cut, UpdatePlan)
    assert limit - whole.train.global_batch_tokens < cut.total_tokens <= limit
    refused = again(store, "lower_peak", whole.total_tokens // 2 - 1)
    assert isinstance(refused, str)
    assert "are left for retraining" in refused


def test_nothing_to_replay_is_told(store: LocalObjects) -> None:
    head = replace(newest(store), replay=None)
    plan = failed(store)
    made = retraining_plan(
        store, LAYOUT, head, plan, "more_replay", CONFIG, number=3, max_tokens=PLENTY
    )
    assert made == "There is nothing to replay yet."
