"""MLflow's curves after the training went back: the branch that was kept, each step once."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

from flows.ground import Ground
from flows.mirror import curve_receiver
from storage.layout import Layout
from storage.local_objects import LocalObjects
from storage.mlflow_client import mlflow_client
from storage.registry import find_run, logged_steps
from tasks.update_plan import UpdatePlan
from training.metrics import LOSS, REWINDS, STEP, TIME, TOKENS_SEEN, MetricJournal, read_metrics


def rows_of(steps: range, *, rewinds: int, passed: range = range(0)) -> list[dict[str, Any]]:
    return [
        {
            STEP: step,
            TIME: 100.0 * (rewinds + 1) + step,
            TOKENS_SEEN: 8 * step,
            REWINDS: rewinds,
            **({} if step in passed else {LOSS: 1.0 * rewinds}),
        }
        for step in steps
    ]


def test_a_rewind_begins_another_run_with_the_kept_branch(tmp_path: Path) -> None:
    uri, store, layout = f"sqlite:///{tmp_path}/ml.db", LocalObjects(tmp_path), Layout("tiny")
    settings = SimpleNamespace(tracking_uri=uri, artifact_uri=tmp_path.as_uri())
    lineage = SimpleNamespace(name="tiny")
    ground = cast(
        "Ground", SimpleNamespace(settings=settings, lineage=lineage, store=store, layout=layout)
    )
    plan = cast("UpdatePlan", SimpleNamespace(id="u1", version="1-u1"))
    journal = MetricJournal(store, layout.metrics("u1"))

    def write(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for row in rows:
            journal.append(row)
        journal.flush()
        return rows

    def shown() -> tuple[str, list[tuple[int, float]], list[int]]:
        run = find_run(uri, lineage="tiny", update="u1")
        assert run is not None
        losses = mlflow_client(uri).get_metric_history(run.run_id, LOSS)
        steps = sorted(logged_steps(run, TOKENS_SEEN))
        return run.run_id, sorted((point.step, point.value) for point in losses), steps

    with mock.patch("flows.mirror.run_parameters", return_value={}):
        receive = curve_receiver(ground, plan)
        receive(write(rows_of(range(1, 9), rewinds=0)))
        first, losses, steps = shown()
        assert steps == list(range(1, 9))
        receive(write(rows_of(range(5, 8), rewinds=1, passed=range(5, 7))))
        second, losses, steps = shown()
        assert second != first
        # Not step 8 of the branch that was left.
        assert losses == [(1, 0.0), (2, 0.0), (3, 0.0), (4, 0.0), (7, 1.0)]
        assert steps == list(range(1, 8))
        receive(write(rows_of(range(8, 11), rewinds=1)))
        # Another process, that has everything already.
        curve_receiver(ground, plan)(read_metrics(store, layout.metrics("u1")))
    third, losses, steps = shown()
    assert third == second
    assert [step for step, _ in losses] == [1, 2, 3, 4, 7, 8, 9, 10]
    assert steps == list(range(1, 11))
