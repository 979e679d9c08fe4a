"""What of Ray's ways to fail is a lost worker, what is no room, and what is the end."""

import logging
import threading
import time
from pathlib import Path
from typing import Any, cast

import pytest

from tests.training.tiny_run import tiny_plan
from training.cluster.failures import (
    CONTROLLER,
    DRIVER,
    Failures,
    WorkerLostError,
    portable,
    repeat,
)
from training.cluster.life import attempt, live
from training.cluster.run import Job, Patience, Request, run_on_ray
from training.cluster.watchdog import Watchdog
from training.errors import TrainingError

# Importing ray.train reads and writes deprecated fields of ray.data.
pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings(r"ignore:.*\bdeprecated\b")]


class Trainer:
    """Ends one way after the other; then well."""

    def __init__(self, *errors: Exception) -> None:
        self.left = list(errors)

    def fit(self) -> None:
        if self.left:
            raise self.left.pop(0)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    plan, uri = tiny_plan(tmp_path)
    return Job(plan=plan, store_uri=uri, work_dir=tmp_path, num_threads=1, use_gpu=False)


def ends(trainer: Trainer) -> Failures | None:
    return attempt(cast("Any", trainer), "u1", Watchdog())


def test_a_lost_controller_and_workers_that_die_at_the_start_are_failures_to_be_repeated(
    caplog: pytest.LogCaptureFixture,
) -> None:
    from ray.exceptions import ActorDiedError
    from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError
    from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

    died, failed = ActorDiedError(), WorkerGroupStartupFailedError("one died")
    trainer = Trainer(died, ControllerError(failed), WorkerGroupError("", {2: OSError("gone")}))
    with caplog.at_level(logging.WARNING, "training.cluster.failures"):
        repeat(lambda: ends(trainer), "u1", 3)
    assert [record.getMessage().split(": ")[1] for record in caplog.records] == [
        "Ray's controller ended with ActorDiedError",
        "Ray's controller ended with WorkerGroupStartupFailedError",
        "rank 2 ended with OSError",
    ]


def test_what_a_dead_rank_leaves_to_the_others_is_told_with_whom_they_waited_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lost: Failures = {0: RuntimeError("Timed out waiting 900000ms\nand a wall of traces")}
    sent = portable(lost, "rank 1 on machine-b (process 7), silent for 12 s")
    with caplog.at_level(logging.WARNING, "training.cluster.failures"):
        repeat(iter([sent, None]).__next__, "u1", 3)
    assert (
        "rank 0 ended with RuntimeError: Timed out waiting 900000ms; all waited for rank 1 on "
        "machine-b (process 7), silent for 12 s; they start again" in caplog.text
    )


def test_errors_leave_the_driver_as_something_that_needs_no_ray_to_be_read() -> None:
    from ray.exceptions import ActorDiedError

    final = TrainingError("the plan must be another")
    sent = portable({0: final, 1: ActorDiedError(), CONTROLLER: RuntimeError("closed\nlong")})
    assert sent[0] is final
    assert type(sent[1]) is WorkerLostError
    assert str(sent[1]).startswith("ActorDiedError: ")
    assert (type(sent[CONTROLLER]), str(sent[CONTROLLER])) == (RuntimeError, "closed")
    assert len({CONTROLLER, DRIVER, 0}) == 3


@pytest.fixture
def no_room(monkeypatch: pytest.MonkeyPatch) -> Trainer:
    """A cluster in which there is no room twice."""
    import contextlib

    import ray
    from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
    from ray.train.v2.api.exceptions import ControllerError

    resources = [{"CPU": 2.0}, {"CPU": 1.0, "GPU": 4.0}, {"CPU": 64.0}]
    nodes = [{"Alive": index < 2, "Resources": has} for index, has in enumerate(resources)]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    trainer = Trainer(*[ControllerError(WorkerGroupStartupTimeoutError(4))] * 2)
    monkeypatch.setattr("training.cluster.life._trainer", lambda *_: trainer)
    overseen = lambda *_: contextlib.nullcontext(Watchdog())  # noqa: E731
    monkeypatch.setattr("training.cluster.life.overseen", overseen)
    monkeypatch.setattr("training.cluster.life._is_finished", lambda _: True)
    return trainer


def request(job: Job, wait_seconds: float) -> Request:
    patience = Patience(max_failures=3, wait_seconds=wait_seconds, silence_seconds=1)
    return Request(
        job=job, workers=(4, 4), address="somewhere:1", patience=patience, log_level=logging.INFO
    )


def test_room_is_waited_for_as_long_as_configured(
    job: Job, no_room: Trainer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "training.cluster.life"):
        assert live(request(job, 60), threading.Event()) is None
    assert len(caplog.records) == 2
    assert no_room.left == []


def test_lack_of_room_is_one_sentence(job: Job, no_room: Trainer) -> None:
    sentence = (
        r"^u1 needs room for 4 workers within 0 s, and the 2 machines of the cluster have 3 CPU in "
        r"all, .* add machines, or .* lower compute\.num_workers"
    )
    started = time.monotonic()
    with pytest.raises(TrainingError, match=sentence):
        live(request(job, 0), threading.Event())
    assert time.monotonic() - started < 5
    assert len(no_room.left) == 1


def test_who_was_asked_to_stop_starts_nothing(job: Job, no_room: Trainer) -> None:
    stop = threading.Event()
    stop.set()
    assert live(request(job, 60), stop) is None
    patience = Patience(max_failures=0, wait_seconds=0, silence_seconds=1)
    run_on_ray(job, (4, 4), None, patience, lambda: True)
    assert len(no_room.left) == 2


def test_what_ray_calls_hopeless_is_not_repeated() -> None:
    from ray.train.v2._internal.exceptions import InsufficientClusterResourcesError
    from ray.train.v2.api.exceptions import ControllerError

    hopeless = ControllerError(InsufficientClusterResourcesError("at most 2 CPU ever"))
    with pytest.raises(TrainingError, match=r"gave up: at most 2 CPU ever; look at the cluster"):
        repeat(lambda: ends(Trainer(hopeless)), "u1", 3)
