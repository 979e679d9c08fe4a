"""What the plans of a lineage replay that has a reference, or has none."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.head import commit_change
from storage.local_objects import LocalObjects
from storage.transitions import with_verdict
from tasks.mix import MAX_REFERENCE_PASSES, ReplayConfig
from tasks.plan import PlanRequest, held_under_another_recipe, make_plan
from tasks.plan_changes import changes_between
from tasks.plan_text import describe
from tasks.publish import replay_extender
from tasks.remedy.config import RemedyConfig
from tasks.remedy.retrain import gentler_replay, retraining_plan
from tasks.update_plan import BudgetConfig, UpdatePlan, save_plan
from tests.support.lineages import LAYOUT, MODEL, SEQ_LEN, add_snapshot, candidate, newest
from training.config import Recipe
from training.plan_difference import Change

REQUEST = PlanRequest(
    recipe=Recipe(seq_len=SEQ_LEN, global_batch_samples=2, micro_batch_size=2),
    budget=BudgetConfig(epochs=4),
    replay=ReplayConfig(),
    new_model=MODEL,
)


def lineage(folder: Path, *, reference_samples: int) -> LocalObjects:
    """A champion that has learned ten samples beside a reference, and ten that wait."""
    store = LocalObjects(folder)
    learned = [add_snapshot(store, 1, tokenizer="tokenizers/t")]
    first = planned(store)
    save_plan(store, LAYOUT, first)
    if reference_samples:
        learned.append(add_snapshot(store, 9, role="reference", train_samples=reference_samples))
    extend = replay_extender(store, LAYOUT, budget_tokens=10**9, seq_len=SEQ_LEN)
    replay = extend(newest(store), tuple(learned))
    record = replace(
        candidate(newest(store), "PASS"),
        update=first.id,
        version=first.version,
        trunk=first.train.trunk,
        replay=None,
    )
    commit_change(
        store,
        LAYOUT,
        lambda head: with_verdict(head or newest(store), record, replay=replay, by="t"),
    )
    add_snapshot(store, 2, tokenizer="tokenizers/t")
    return store


def planned(store: LocalObjects, replay: ReplayConfig | None = None) -> UpdatePlan:
    request = replace(REQUEST, replay=replay) if replay else REQUEST
    plan = make_plan(store, LAYOUT, newest(store), request)
    assert isinstance(plan, UpdatePlan)
    return plan


def share_of_reference(plan: UpdatePlan) -> float:
    # The reference has more samples than anything else that is replayed.
    mixture = plan.train.mixture
    largest = max(mixture.streams, key=lambda stream: (stream.is_replay, stream.samples))
    return largest.parts / mixture.total_parts


def test_half_of_an_update_is_the_reference_and_new_text_is_still_seen_once_an_epoch(
    tmp_path: Path,
) -> None:
    plan = planned(lineage(tmp_path, reference_samples=1000))
    assert share_of_reference(plan) == 0.5
    assert plan.replay_share == 0.5 + 0.5 * 0.25
    # 4 epochs of 10 samples are 37.5% of the update; 2 samples a step.
    assert plan.train.num_steps == 54
    assert "asked for 50.00% reference, 25.00% of the rest" in "\n".join(describe(plan))


def test_a_lineage_without_a_reference_is_planned_as_if_there_were_no_such_share(
    tmp_path: Path,
) -> None:
    store = lineage(tmp_path, reference_samples=0)
    other = ReplayConfig(reference_share=0.9)
    assert planned(store) == planned(store, other)
    assert planned(store).replay_share == 0.25


@pytest.mark.parametrize(
    "budget", [BudgetConfig(epochs=400), BudgetConfig(tokens=8000 * SEQ_LEN)], ids=["epochs", "tok"]
)
def test_a_small_reference_is_passed_over_four_times_at_most(
    tmp_path: Path, budget: BudgetConfig
) -> None:
    store = lineage(tmp_path, reference_samples=100)
    # What it gets by its size alone is less than its four passes here.
    request = replace(REQUEST, budget=budget, replay=ReplayConfig(share=0.02))
    plan = make_plan(store, LAYOUT, newest(store), request)
    assert isinstance(plan, UpdatePlan)
    drawn = share_of_reference(plan) * plan.train.num_steps * plan.train.global_batch_samples
    assert drawn == pytest.approx(MAX_REFERENCE_PASSES * 100, rel=0.05)


def test_more_replay_leaves_half_as_much_beside_the_reference(tmp_path: Path) -> None:
    store = lineage(tmp_path, reference_samples=1000)
    plan = planned(store)
    made = retraining_plan(
        store,
        LAYOUT,
        newest(store),
        plan,
        "more_replay",
        RemedyConfig(),
        number=3,
        max_tokens=10**9,
    )
    assert isinstance(made, UpdatePlan)
    assert share_of_reference(made) == 0.75
    assert made.replay_share == pytest.approx(0.75 + 0.25 * 0.5)
    assert made.remedy == "more replay, share 0.5 beside a reference share of 0.75"


@given(
    st.floats(min_value=0, max_value=0.9),
    st.floats(min_value=0, max_value=0.9),
    st.floats(min_value=1.01, max_value=100),
)
def test_more_replay_is_more_and_leaves_a_tenth_to_new_text(
    share: float, reference_share: float, factor: float
) -> None:
    def left(asked: ReplayConfig) -> float:
        return (1 - asked.reference_share) * (1 - asked.share)

    asked = ReplayConfig(share=share, reference_share=reference_share)
    made = gentler_replay(asked, factor)
    assert made.reference_share >= asked.reference_share
    assert left(made) >= min(0.1, left(asked)) - 1e-9
    assert left(made) <= max(0.1, left(asked)) + 1e-9


def test_a_changed_reference_share_is_named_and_frees_what_a_rollback_held(tmp_path: Path) -> None:
    store = lineage(tmp_path, reference_samples=1000)
    less = ReplayConfig(reference_share=0.25)
    begun, wanted = planned(store), planned(store, less)
    found = changes_between(begun, wanted, replace(REQUEST, replay=less))
    assert found == (Change("replay.reference_share", 0.5, 0.25),)

    head = newest(store)
    save_plan(store, LAYOUT, begun)
    waiting = begun.snapshots[0]
    record = replace(
        candidate(head, "PASS", decision="rolled_back"), update=begun.id, snapshots=(waiting,)
    )
    states = tuple(
        replace(known, state="held") if known.id == waiting else known for known in head.snapshots
    )
    head = replace(head, versions=(*head.versions, record), snapshots=states)
    assert held_under_another_recipe(store, LAYOUT, head, REQUEST) == []
    changed = replace(REQUEST, replay=less)
    assert held_under_another_recipe(store, LAYOUT, head, changed) == [waiting]
