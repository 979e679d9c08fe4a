"""What a takedown has marked marks all that grows from it."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pytest

from storage.head import Head, VersionRecord, commit_change, read_head
from storage.local_objects import LocalObjects
from storage.taking_down import with_takedown
from storage.transitions import with_verdict
from tasks.ancestors import Ancestors, with_takedowns
from tasks.mix import ReplayConfig
from tasks.plan import PlanRequest, make_plan
from tasks.publish import replay_extender
from tasks.update_plan import BudgetConfig, UpdatePlan, save_plan
from tests.support.lineages import LAYOUT, MODEL, SEQ_LEN, add_snapshot, candidate, newest
from training.config import Recipe

REQUEST = PlanRequest(
    recipe=Recipe(seq_len=SEQ_LEN, global_batch_samples=4, micro_batch_size=2),
    budget=BudgetConfig(),
    replay=ReplayConfig(share=0.0),
    new_model=MODEL,
)


@pytest.fixture
def store(tmp_path: Path) -> LocalObjects:
    return LocalObjects(tmp_path)


def planned(store: LocalObjects) -> VersionRecord:
    """What the next update would publish; its plan is stored."""
    head = read_head(store, LAYOUT)
    number = 1 if head is None else len(head.versions) + 1
    add_snapshot(store, number, tokenizer="tokenizers/t")
    head = newest(store)
    plan = make_plan(store, LAYOUT, head, REQUEST)
    assert isinstance(plan, UpdatePlan)
    save_plan(store, LAYOUT, plan)
    record = candidate(head, "PASS", version=plan.version, update=plan.id)
    return replace(record, trunk=plan.next_trunk)


def published(store: LocalObjects, record: VersionRecord) -> Head:
    extend = replay_extender(store, LAYOUT, budget_tokens=1600, seq_len=SEQ_LEN)

    def change(head: Head | None) -> Head:
        assert head is not None
        return with_verdict(head, record, replay=extend(head, record.snapshots), by="test")

    return commit_change(store, LAYOUT, change)


def taken_down(store: LocalObjects, takedown: str, saw: Collection[str]) -> Head:
    def change(head: Head | None) -> Head:
        assert head is not None
        return with_takedown(head, takedown, saw=saw, suite=head.suite, by="test", reason="")

    return commit_change(store, LAYOUT, change)


def test_who_continues_from_a_marked_version_is_marked_however_far_away(
    store: LocalObjects,
) -> None:
    first = planned(store)
    published(store, first)
    head = taken_down(store, "t1", [first.version])
    second = with_takedowns(store, LAYOUT, head, planned(store))
    assert second.takedowns == ("t1",)
    published(store, second)
    # The first does not know what the second has learned besides.
    head = taken_down(store, "t2", [second.version])
    assert [one.takedowns for one in head.versions] == [("t1",), ("t1", "t2")]
    third = with_takedowns(store, LAYOUT, head, planned(store))
    assert third.takedowns == ("t1", "t2")
    updates = Ancestors(store, LAYOUT, head).of_version(third)
    assert updates == {first.update, second.update, third.update}


def test_who_grew_from_nothing_that_saw_it_is_not_marked(store: LocalObjects) -> None:
    first = planned(store)
    head = taken_down(store, "t1", saw=[])
    assert with_takedowns(store, LAYOUT, head, first).takedowns == ()


def test_a_version_judged_again_keeps_its_marks(store: LocalObjects) -> None:
    waits = replace(planned(store), verdict="AMBIGUOUS")
    published(store, waits)
    head = taken_down(store, "t1", [waits.version])
    again = with_takedowns(store, LAYOUT, head, replace(waits, verdict="PASS"))
    assert again.takedowns == ("t1",)


def test_a_merge_knows_what_those_know_that_it_is_made_of_one_of_which_is_judged_with_it(
    store: LocalObjects,
) -> None:
    first = planned(store)
    published(store, first)
    head = taken_down(store, "t1", [first.version])
    failed = with_takedowns(store, LAYOUT, head, replace(planned(store), verdict="FAIL"))
    merged = replace(
        failed,
        version="3-merged",
        update="f" * 16,
        verdict="PASS",
        remedy_of=failed.version,
        merged_from=(first.version, failed.version),
        takedowns=(),
    )
    assert with_takedowns(store, LAYOUT, head, merged, [failed]).takedowns == ("t1",)
