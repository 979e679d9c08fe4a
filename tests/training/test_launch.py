"""Launching: finished runs cost nothing; workers and drivers on Ray may die at any time."""

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from storage.errors import CorruptError
from storage.objects import open_store
from tests.training.tiny_run import LAYOUT, tensors_of, tiny_plan
from training.checkpoint.index import committed_steps
from training.cluster.failures import repeat
from training.config import TrainPlan
from training.errors import (
    PlanMismatchError,
    TrainingDivergedError,
    TrainingError,
    TrainingStoppedError,
)
from training.launch import run_training
from training.metrics import MEASURED, STEP, read_metrics

DRIVER = """
import sys
from pathlib import Path
from tests.training.tiny_run import tiny_plan
from training.launch import run_training

root, address = Path(sys.argv[1]), sys.argv[4] if len(sys.argv) > 4 else None
plan, uri = tiny_plan(root / "store", num_steps=int(sys.argv[2]))
run_training(plan, store_uri=uri, num_workers=int(sys.argv[3]), work_dir=root / "work",
             threads_per_worker=1, ray_address=address)
heavy = sorted({"torch", "ray", "streaming"} & set(sys.modules))
print("loaded", heavy)
"""

NUM_STEPS = 150
# Importing ray.train reads and writes deprecated fields of ray.data.
ray_data_warns = pytest.mark.filterwarnings(r"ignore:.*\bdeprecated\b")


def start_driver(root: Path, *arguments: object) -> "subprocess.Popen[str]":
    """Arguments: steps, workers, address of Ray."""
    command = [sys.executable, "-c", DRIVER, str(root), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_the_listener_hears_every_step_once_and_a_finished_run_loads_nothing(
    tmp_path: Path,
) -> None:
    plan, uri = tiny_plan(tmp_path / "store", num_steps=5)
    rows: list[dict[str, Any]] = []
    arguments: dict[str, Any] = {"store_uri": uri, "num_workers": 0, "threads_per_worker": 1}
    final = run_training(plan, work_dir=tmp_path / "w", on_metrics=rows.extend, **arguments)
    assert [row[STEP] for row in rows] == [1, 2, 3, 4, 5]
    assert final == f"{plan.checkpoint_prefix}/step-5"
    driver = start_driver(tmp_path, 5, 2)
    assert driver.communicate()[0].strip() == "loaded []"


def test_workers_that_cannot_share_a_batch_are_refused_before_anything_starts(
    tmp_path: Path,
) -> None:
    plan, uri = tiny_plan(tmp_path)
    with pytest.raises(ValueError, match="3 workers cannot share the 8 samples"):
        run_training(plan, store_uri=uri, num_workers=3, work_dir=tmp_path)


class Attempts:
    """What ranks fail of, attempt after attempt; success when nothing is left."""

    def __init__(self, *errors: Mapping[int, BaseException]) -> None:
        self.left = list(errors)
        self.made = 0

    def __call__(self) -> Mapping[int, BaseException] | None:
        self.made += 1
        return self.left.pop(0) if self.left else None


NEXT = "; they start again from the newest checkpoint"
LOST = RuntimeError("Connection closed by peer [127.0.0.1]:1234\n\nand a wall of traces")


@pytest.mark.parametrize(
    "error",
    [
        TrainingDivergedError("step 5 must have a finite loss"),
        PlanMismatchError("belongs to another plan"),
        CorruptError("shard 1 was altered"),
        ValueError("the plan's model must be that of imported"),
    ],
)
def test_an_error_that_must_come_again_ends_the_run_at_once_as_it_is(error: Exception) -> None:
    attempts = Attempts({0: LOST}, {0: LOST, 1: error})
    with pytest.raises(type(error), match=f"^{error}$") as raised:
        repeat(attempts, "u1", 3)
    assert raised.value is error
    assert raised.value.__cause__ is None
    assert attempts.made == 2


def test_dead_workers_are_replaced_as_often_as_allowed(caplog: pytest.LogCaptureFixture) -> None:
    dead = OSError("the actor died unexpectedly\nbecause of a long story")
    with caplog.at_level(logging.WARNING, "training.cluster.failures"):
        repeat(Attempts({0: LOST, 1: dead}, {}, {0: LOST}), "u1", 3)
    reasons = [
        record.getMessage().removesuffix(NEXT).split(": ", 1)[1] for record in caplog.records
    ]
    assert reasons == [
        "rank 1 ended with OSError: the actor died unexpectedly",
        "Ray gave no reason",
        "rank 0 ended with RuntimeError: Connection closed by peer [127.0.0.1]:1234",
    ]
    attempts = Attempts(*[{0: dead}] * 9)
    with pytest.raises(TrainingError, match=r"at most 3 .*rank 0 .* unexpectedly; run it again"):
        repeat(attempts, "u1", 3)
    assert attempts.made == 4


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The store of a run on two ranks, without Ray; before Ray's threads are here to be forked."""
    from tests.training.local_ranks import run_ranks

    root = tmp_path_factory.mktemp("undisturbed")
    plan, uri = tiny_plan(root / "store", num_steps=NUM_STEPS)
    run_ranks(plan, uri, root / "work", world_size=2)
    return uri


@pytest.fixture(scope="module")
def ray_address() -> Generator[str]:
    """One Ray for all tests: starting one takes longer than they do."""
    import ray

    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.WARNING,
        _node_ip_address="127.0.0.1",
    )
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


def wait_for_step(plan: TrainPlan, uri: str, step: int, driver: "subprocess.Popen[str]") -> None:
    """Until a checkpoint of ``step`` or later was committed; looks a few times a second."""
    while not any(
        done >= step for done in committed_steps(open_store(uri), plan.checkpoint_prefix)
    ):
        with pytest.raises(subprocess.TimeoutExpired, match="timed out"):
            driver.wait(0.05)


def without_clock(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in row if name not in MEASURED}


def processes(name: str) -> list[psutil.Process]:
    """Descendants of this process whose command line has this name."""
    children = psutil.Process().children(recursive=True)
    return [child for child in children if name in " ".join(child.cmdline())]


class KillOnce:
    """Asked again and again, kills the youngest process of a name after a step; never says stop."""

    def __init__(self, name: str, has_come: Callable[[], bool]) -> None:
        self.name, self.has_come, self.killed = name, has_come, 0

    def __call__(self) -> bool:
        if not self.killed and self.has_come():
            victim = max(processes(self.name), key=psutil.Process.create_time)
            victim.kill()
            self.killed = victim.pid
        return False


@ray_data_warns
@pytest.mark.ray
def test_on_ray_no_death_and_no_wished_stop_changes_a_bit(
    tmp_path: Path, undisturbed: str, ray_address: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Dead: a worker, the process that started the training, Ray's head."""
    plan, uri = tiny_plan(tmp_path / "store", num_steps=NUM_STEPS)
    driver = start_driver(tmp_path, NUM_STEPS, 2, ray_address)
    wait_for_step(plan, uri, 3, driver)
    before = processes("RayTrainWorker")
    assert len(before) == 2
    before[1].kill()
    wait_for_step(plan, uri, 40, driver)
    assert not {worker.pid for worker in before} & {
        worker.pid for worker in processes("RayTrainWorker")
    }
    os.kill(driver.pid, signal.SIGKILL)
    driver.communicate()

    def has_reached(step: int) -> bool:
        return max(committed_steps(open_store(uri), plan.checkpoint_prefix)) >= step

    def run(plan: TrainPlan, num_workers: int, address: str | None, ask: Callable[[], bool]) -> str:
        return run_training(
            plan,
            store_uri=uri,
            num_workers=num_workers,
            work_dir=tmp_path / "work",
            threads_per_worker=1,
            ray_address=address,
            is_asked_to_stop=ask,
        )

    with pytest.raises(
        TrainingStoppedError, match=r"has done (\d+) of 150 steps; run it"
    ) as stopped:
        run(plan, 2, ray_address, lambda: has_reached(60))
    store, whole = open_store(uri), open_store(undisturbed)
    done = committed_steps(store, plan.checkpoint_prefix)[0]
    # Not a step that was taken is lost.
    assert f"has done {done} of" in str(stopped.value)
    assert read_metrics(store, LAYOUT.metrics("u1"))[-1][STEP] == done

    kill_head = KillOnce("gcs_server", lambda: has_reached(done + 3))
    final = run(plan, 2, None, kill_head)
    assert kill_head.killed
    assert "Ray's driver ended with Ray's head does not answer any more; they start" in caplog.text
    caplog.clear()
    assert processes("training.cluster.driver") == []
    assert tensors_of(store, final) == tensors_of(whole, final)
    rows = read_metrics(store, LAYOUT.metrics("u1"))
    assert [without_clock(row) for row in rows] == [
        without_clock(row) for row in read_metrics(whole, LAYOUT.metrics("u1"))
    ]

    # What every attempt would meet again ends the run at once, with the worker's own sentence.
    other = replace(plan, num_steps=NUM_STEPS + 3)
    with pytest.raises(PlanMismatchError, match=r"^\S+/step-150 belongs to .* was 150, now 153"):
        run(other, 1, ray_address, lambda: False)
    assert "they start again" not in caplog.text
