"""What of Ray's ways to fail is a lost worker, what is no room, and what is the end."""

import logging
import time
from typing import Any, cast

import pytest

from tests.training.tiny_run import tiny_plan
from training.errors import TrainingError
from training.ray_run import CONTROLLER, Failures, Job, _attempt, repeat

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
def job(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Job:
    import ray

    resources = [{"CPU": 2.0}, {"CPU": 1.0, "GPU": 4.0}, {"CPU": 64.0}]
    nodes = [{"Alive": index < 2, "Resources": has} for index, has in enumerate(resources)]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    plan, uri = tiny_plan(tmp_path)
    return Job(plan=plan, store_uri=uri, work_dir=tmp_path, num_threads=1, use_gpu=False)


def attempt(trainer: Trainer, job: Job, wait_seconds: float = 0.0) -> Failures | None:
    return _attempt(cast("Any", trainer), job, 4, wait_seconds)


def test_a_lost_controller_and_workers_that_die_at_the_start_are_failures_to_be_repeated(
    job: Job, caplog: pytest.LogCaptureFixture
) -> None:
    from ray.exceptions import ActorDiedError
    from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError
    from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

    died, failed = ActorDiedError(), WorkerGroupStartupFailedError("one died")
    trainer = Trainer(died, ControllerError(failed), WorkerGroupError("", {2: OSError("gone")}))
    with caplog.at_level(logging.WARNING, "training.ray_run"):
        repeat(lambda: attempt(trainer, job), "u1", 3)
    assert [record.getMessage().split(": ")[1] for record in caplog.records] == [
        "Ray's controller ended with ActorDiedError",
        "Ray's controller ended with WorkerGroupStartupFailedError",
        "rank 2 ended with OSError",
    ]


def test_room_is_waited_for_as_long_as_configured_and_its_lack_is_one_sentence(
    job: Job, caplog: pytest.LogCaptureFixture
) -> None:
    from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
    from ray.train.v2.api.exceptions import ControllerError

    no_room = ControllerError(WorkerGroupStartupTimeoutError(4))
    with caplog.at_level(logging.WARNING, "training.ray_run"):
        assert attempt(Trainer(no_room, no_room), job, 60) is None
    assert len(caplog.records) == 2
    sentence = (
        r"^u1 needs room for 4 workers within 0 s, and the 2 machines of the cluster have 3 CPU in "
        r"all, .* add machines, or .* lower compute\.num_workers"
    )
    started = time.monotonic()
    with pytest.raises(TrainingError, match=sentence):
        attempt(Trainer(no_room, no_room), job)
    assert time.monotonic() - started < 5


def test_what_ray_calls_hopeless_is_not_repeated(job: Job) -> None:
    from ray.train.v2._internal.exceptions import InsufficientClusterResourcesError
    from ray.train.v2.api.exceptions import ControllerError

    hopeless = ControllerError(InsufficientClusterResourcesError("at most 2 CPU ever"))
    with pytest.raises(TrainingError, match=r"gave up: at most 2 CPU ever; look at the cluster"):
        repeat(lambda: attempt(Trainer(hopeless), job), "u1", 3)
    assert CONTROLLER < 0
