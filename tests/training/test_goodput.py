"""The account of a run's time: no second counts twice, whatever was killed, whatever the clocks."""

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.local_objects import LocalObjects
from storage.objects import open_store
from tests.training.tiny_run import LAYOUT, tiny_plan
from training.goodput import (
    Goodput,
    LifeBegun,
    LifeOver,
    goodput,
    read_lives,
    settle,
    settled,
)
from training.metrics import (
    DATA_WAIT_FRACTION,
    LIFE,
    SAVE_SECONDS,
    STEP,
    STEP_SECONDS,
    TIME,
    MetricJournal,
    read_every_row,
)
from training.worker import run_worker

Row = dict[str, Any]


def begun(number: int, asked_at: float, first_step: int = 0, restore: float = 0.0) -> LifeBegun:
    """A life whose worker is there 4 s after it was asked for."""
    return LifeBegun(
        number=number,
        asked_at=asked_at,
        began_at=asked_at + 4,
        restore_seconds=restore,
        first_step=first_step,
        num_workers=1,
    )


def row(life: int, step: int, time: float, *, wait: float = 0.0, save: float = 0.0) -> Row:
    """A step of 2 s."""
    fields = {LIFE: life, STEP: step, TIME: time, STEP_SECONDS: 2.0}
    return {**fields, DATA_WAIT_FRACTION: wait, SAVE_SECONDS: save}


def account(*rows: Row, lives: list[LifeBegun], ends: list[LifeOver] | None = None) -> Goodput:
    found = goodput(rows, lives, ends or [])
    assert found is not None
    return found


def test_an_undisturbed_run_is_told_by_its_buckets() -> None:
    found = account(
        row(1, 1, 109.0),
        row(1, 2, 111.0, wait=0.25),
        row(1, 3, 113.5, save=0.5),
        lives=[begun(1, 100.0, restore=1.0)],
        ends=[LifeOver(number=1, ended_at=114.0)],
    )
    assert found.by_bucket() == {
        "productive": 5.5,
        "start": 6.0,
        "data": 0.5,
        "save": 1.0,
        "restore": 1.0,
        "lost": 0.0,
    }
    assert found.wall_seconds == 14.0
    assert found.in_words() == (
        "goodput 39%: productive 0:05 of 0:14; start 0:06, save 0:01, restore 0:01"
    )
    assert found.figures()["productive_share"] == pytest.approx(5.5 / 14)
    assert found.figures()["start_seconds"] == 6.0


def test_steps_taken_again_after_a_kill_and_the_down_time_are_lost() -> None:
    found = account(
        *(row(1, step, 104.0 + 2 * step) for step in range(1, 6)),  # killed after 114
        *(row(2, step, 154.0 + 2 * (step - 3)) for step in range(4, 7)),
        lives=[begun(1, 100.0), begun(2, 150.0, first_step=3)],
    )
    assert found.lost_seconds == 2 * 2 + (150 - 114)
    assert found.productive_seconds == 6 * 2
    assert found.start_seconds == 4 + 4
    assert found.wall_seconds == 60


def test_the_branch_that_a_rewind_left_is_lost_with_the_saving_of_it() -> None:
    found = account(
        *(row(1, step, 104.0 + 2 * step) for step in range(1, 6)),
        *(row(2, step, 120.0 + 2 * (step - 2)) for step in range(3, 7)),
        lives=[begun(1, 100.0), begun(2, 116.0, first_step=2)],
        ends=[LifeOver(number=1, ended_at=116.0), LifeOver(number=2, ended_at=130.0)],
    )
    assert found.productive_seconds == 2 * 2 + 4 * 2
    assert found.lost_seconds == 3 * 2 + 2
    assert found.save_seconds == 2
    assert found.wall_seconds == 30


def test_a_life_that_went_back_further_undoes_what_two_lives_before_it_did() -> None:
    found = account(
        *(row(1, step, 104.0 + 2 * step) for step in range(1, 4)),
        *(row(2, step, 114.0 + 2 * (step - 3)) for step in range(4, 6)),
        *(row(3, step, 122.0 + 2 * step) for step in range(1, 6)),
        lives=[begun(1, 100.0), begun(2, 110.0, first_step=3), begun(3, 118.0)],
    )
    assert found.productive_seconds == 5 * 2
    assert found.lost_seconds == 5 * 2


def test_a_life_that_left_only_rows_and_one_that_left_none_are_accounted_for() -> None:
    found = account(
        row(2, 1, 124.0),
        row(2, 2, 126.0),
        lives=[begun(1, 100.0)],
    )
    assert found.by_bucket() == {
        "productive": 4.0,
        "start": 4.0,
        "data": 0.0,
        "save": 0.0,
        "restore": 0.0,
        "lost": 18.0,
    }


def test_rows_that_name_no_life_give_no_account() -> None:
    assert goodput([{STEP: 1, TIME: 1.0}], [begun(1, 0.0)]) is None
    assert goodput([], []) is None


times = st.floats(0, 1e4)
lives = st.lists(
    st.builds(
        LifeBegun,
        number=st.integers(1, 6),
        asked_at=times,
        began_at=times,
        restore_seconds=st.floats(0, 100),
        first_step=st.integers(0, 9),
        num_workers=st.just(1),
    ),
    unique_by=lambda life: life.number,
)
rows = st.lists(
    st.fixed_dictionaries(
        {
            LIFE: st.integers(1, 7),
            STEP: st.integers(1, 10),
            TIME: times,
            STEP_SECONDS: st.floats(0, 100),
            DATA_WAIT_FRACTION: st.floats(0, 1.01),
            SAVE_SECONDS: st.floats(0, 100),
        }
    ),
    max_size=40,
)
ends = st.lists(st.builds(LifeOver, number=st.integers(1, 7), ended_at=times))


@given(rows, lives, ends)
def test_the_buckets_add_up_to_the_wall_time_and_none_is_negative_whatever_the_clocks_say(
    rows: list[Row], lives: list[LifeBegun], ends: list[LifeOver]
) -> None:
    found = goodput(rows, lives, ends)
    if found is None:
        assert not rows
        assert not lives
        return
    assert all(seconds >= 0 for seconds in found.by_bucket().values())
    assert 0 <= found.productive_share <= 1
    # No second from before the first wish or after the last thing that is known.
    known = [row[TIME] for row in rows] + [end.ended_at for end in ends]
    known += [time for life in lives for time in (life.asked_at, life.began_at)]
    known += [life.began_at + life.restore_seconds for life in lives]
    spare = sum(life.restore_seconds for life in lives)
    spare += sum(row[STEP_SECONDS] for row in rows)
    assert found.wall_seconds <= max(known) - min(known) + spare + 1e-6


@given(rows, lives, ends, st.randoms(use_true_random=False))
def test_the_account_does_not_depend_on_the_order_in_which_the_store_lists(
    rows: list[Row], lives: list[LifeBegun], ends: list[LifeOver], random: Any
) -> None:
    once_each = list({(row[LIFE], row[STEP]): row for row in rows}.values())
    one_end = list({end.number: end for end in ends}.values())
    found = goodput(once_each, lives, one_end)
    for listed in (once_each, lives, one_end):
        random.shuffle(listed)
    assert goodput(once_each, lives, one_end) == found


def test_a_run_that_is_resumed_leaves_an_account_of_all_its_time(tmp_path: Path) -> None:
    plan, uri = tiny_plan(tmp_path / "store", num_steps=7)
    store = open_store(uri)
    looks, stages = iter(range(100)), list[str]()
    run_worker(
        plan,
        uri,
        work_dir=tmp_path / "a",
        is_asked_to_stop=lambda: next(looks) == 3,
        on_stage=stages.append,
    )
    assert "loading the weights" in stages
    assert stages[-1] == "fetching the first batches, then step 1"
    first, _ = read_lives(store, LAYOUT, "u1")
    run_worker(plan, uri, work_dir=tmp_path / "b", asked_at=first[0].began_at + 0.001)
    begun, ended = read_lives(store, LAYOUT, "u1")
    assert [(life.number, life.first_step) for life in begun] == [(1, 0), (2, 4)]
    assert [life.number for life in ended] == [1, 2]
    assert begun[0].restore_seconds == 0 < begun[1].restore_seconds
    written = list(read_every_row(store, LAYOUT.metrics("u1")))
    assert [row[LIFE] for row in sorted(written, key=lambda row: row[STEP])] == [1] * 4 + [2] * 3
    found = settle(store, LAYOUT, "u1")
    assert found is not None
    assert found == settled(store, LAYOUT, "u1") == settle(store, LAYOUT, "u1")
    assert math.isclose(found.wall_seconds, ended[1].ended_at - begun[0].asked_at, abs_tol=1e-3)
    assert found.productive_seconds > 0
    assert found.restore_seconds > 0


def test_a_run_of_a_version_that_kept_no_account_has_none(tmp_path: Path) -> None:
    store = LocalObjects(tmp_path)
    journal = MetricJournal(store, LAYOUT.metrics("old"))
    journal.append({STEP: 1, TIME: 1.0})
    journal.flush()
    assert settle(store, LAYOUT, "old") is None
    assert settled(store, LAYOUT, "old") is None
