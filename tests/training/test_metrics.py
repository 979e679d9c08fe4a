"""The metric journal: immutable chunks, no step lost, none twice."""

from pathlib import Path
from typing import Any

from storage.local_objects import LocalObjects
from training.metrics import LOSS, REWINDS, STEP, TIME, JournalFollower, MetricJournal, read_metrics

PREFIX = "updates/u/metrics"


def row(step: int, time: float) -> dict[str, Any]:
    return {STEP: step, TIME: time, LOSS: 1 / step}


def write(store: LocalObjects, steps: range, *, time: float, chunk: int) -> None:
    journal = MetricJournal(store, PREFIX)
    for step in steps:
        journal.append(row(step, time))
        if step % chunk == 0:
            journal.flush()
    journal.flush()


def test_rows_come_back_in_order_whatever_the_chunks(tmp_path: Path) -> None:
    store = LocalObjects(tmp_path)
    write(store, range(1, 12), time=1.0, chunk=4)
    expected = [row(step, 1.0) for step in range(1, 12)]
    assert read_metrics(store, PREFIX) == expected
    assert read_metrics(store, PREFIX, after_step=5) == expected[5:]
    assert read_metrics(store, PREFIX, after_step=11) == []


def test_steps_taken_again_after_a_crash_are_there_once_as_written_last(tmp_path: Path) -> None:
    store = LocalObjects(tmp_path)
    write(store, range(1, 9), time=1.0, chunk=4)
    before = {info.key: store.get(info.key) for info in store.list(PREFIX)}
    write(store, range(5, 11), time=2.0, chunk=4)
    times = [(row[STEP], row[TIME]) for row in read_metrics(store, PREFIX)]
    assert times == [(s, 1.0) for s in range(1, 5)] + [(s, 2.0) for s in range(5, 11)]
    assert {key: store.get(key) for key in before} == before


def test_an_empty_journal_writes_nothing(tmp_path: Path) -> None:
    store = LocalObjects(tmp_path)
    MetricJournal(store, PREFIX).flush()
    assert read_metrics(store, PREFIX) == []


def test_after_a_rewind_the_left_branch_is_gone_whatever_the_clocks_say(tmp_path: Path) -> None:
    store = LocalObjects(tmp_path)
    follower = JournalFollower(store, PREFIX)
    write(store, range(1, 9), time=9.0, chunk=4)
    assert [row[STEP] for row in follower.new_rows()] == list(range(1, 9))
    assert follower.new_rows() == []
    journal = MetricJournal(store, PREFIX)
    again = [{**row(step, 2.0), REWINDS: 1} for step in range(4, 7)]
    for fields in again:
        journal.append(fields)
    journal.flush()
    kept = [*(row(step, 9.0) for step in range(1, 4)), *again]
    assert read_metrics(store, PREFIX) == kept
    assert follower.new_rows() == again
    assert JournalFollower(store, PREFIX).new_rows() == kept
    # A life that resumes writes the same steps again: who follows has them.
    write_again = MetricJournal(store, PREFIX)
    write_again.append({**again[-1], TIME: 3.0})
    write_again.flush()
    assert follower.new_rows() == []
