"""How long an update will take is told from the last one of the same kind, or not at all."""

from dataclasses import replace
from pathlib import Path

import pytest

from storage.head import Head
from storage.local_objects import LocalObjects
from tasks.forecast import forecast
from tasks.mix import ReplayConfig
from tasks.plan import PlanRequest, make_plan
from tasks.update_plan import BudgetConfig, UpdatePlan, save_plan
from tests.support.lineages import LAYOUT, MODEL, SEQ_LEN, add_snapshot, candidate, newest
from training.config import Recipe
from training.goodput import LifeBegun, record_begin
from training.metrics import ELAPSED_SECONDS, LIFE, MFU, STEP, STEP_SECONDS, TIME, MetricJournal

RECIPE = Recipe(seq_len=SEQ_LEN, global_batch_samples=4, micro_batch_size=2)
BATCH_TOKENS = 4 * SEQ_LEN
REQUEST = PlanRequest(
    recipe=RECIPE,
    budget=BudgetConfig(tokens=600 * BATCH_TOKENS),
    replay=ReplayConfig(share=0.0),
    new_model=MODEL,
)


@pytest.fixture
def store(tmp_path: Path) -> LocalObjects:
    store = LocalObjects(tmp_path)
    add_snapshot(store, 1, tokenizer="tokenizers/t")
    return store


def planned(store: LocalObjects, seed: int) -> UpdatePlan:
    request = replace(REQUEST, recipe=replace(RECIPE, seed=seed))
    plan = make_plan(store, LAYOUT, newest(store), request)
    assert isinstance(plan, UpdatePlan)
    return plan


def trained(store: LocalObjects, *, num_workers: int) -> Head:
    """The head with an update that took 2 s a step at first and half a second in the end."""
    earlier = planned(store, seed=1)
    save_plan(store, LAYOUT, earlier)
    begun = LifeBegun(
        number=1,
        asked_at=0.0,
        began_at=0.0,
        restore_seconds=0.0,
        first_step=0,
        num_workers=num_workers,
    )
    record_begin(store, LAYOUT, earlier.id, begun)
    journal = MetricJournal(store, LAYOUT.metrics(earlier.id))
    for first, end, seconds in ((1, 401, 2.0), (401, 601, 0.5)):
        for step in range(first, end):
            time = step * seconds
            row = {STEP: step, TIME: time, ELAPSED_SECONDS: time, LIFE: 1, MFU: 0.1}
            journal.append({**row, STEP_SECONDS: seconds})
        journal.flush()
    head = newest(store)
    record = replace(candidate(head, "FAIL"), update=earlier.id)
    return replace(head, versions=(record,))


def test_the_time_is_told_at_the_speed_that_the_last_update_had_in_the_end(
    store: LocalObjects,
) -> None:
    head = trained(store, num_workers=2)
    told = forecast(store, LAYOUT, head, planned(store, seed=2), num_workers=2)
    rate = BATCH_TOKENS / 0.5
    assert told == f"time: about 5:00 min at the {rate:,.0f} tokens/s of the last update"


def test_of_an_update_that_was_begun_the_time_that_is_left_is_told(store: LocalObjects) -> None:
    head = trained(store, num_workers=2)
    plan = planned(store, seed=2)
    store.put(f"{plan.train.checkpoint_prefix}/step-480/manifest.json", b"{}")
    told = forecast(store, LAYOUT, head, plan, num_workers=2)
    assert told is not None
    assert told.startswith("time: about 1:00 min at the ")
    assert told.endswith(f" for the {120 * BATCH_TOKENS:,} tokens that are left")


def test_nothing_is_promised_without_an_update_of_the_same_kind(store: LocalObjects) -> None:
    plan = planned(store, seed=2)
    assert forecast(store, LAYOUT, newest(store), plan, num_workers=2) is None
    head = trained(store, num_workers=2)
    assert forecast(store, LAYOUT, head, plan, num_workers=1) is None
    other = replace(plan, train=replace(plan.train, precision="fp32"))
    assert forecast(store, LAYOUT, head, other, num_workers=2) is None
    (begun,) = store.list(LAYOUT.lives(head.versions[0].update))
    store.delete(begun.key)
    assert forecast(store, LAYOUT, head, plan, num_workers=2) is None
