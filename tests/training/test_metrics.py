"""The metric journal: immutable chunks, no step lost, none twice."""

from pathlib import Path
from typing import Any

from storage.local_objects import LocalObjects
from training.metrics import LOSS, STEP, TIME, MetricJournal, read_metrics

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
