"""Launching on Ray: workers, drivers and Ray's head may die at any time, and no bit changes."""

import logging
import os
import signal
import subprocess
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from storage.objects import open_store
from tests.training.test_launch import start_driver
from tests.training.tiny_run import LAYOUT, tensors_of, tiny_plan
from training.checkpoint.index import committed_steps
from training.config import TrainPlan
from training.errors import PlanMismatchError, TrainingStoppedError
from training.launch import run_training
from training.metrics import MEASURED, STEP, read_metrics

NUM_STEPS = 150
# Importing ray.train reads and writes deprecated fields of ray.data.
pytestmark = [
    pytest.mark.integration,
    pytest.mark.ray,
    pytest.mark.filterwarnings(r"ignore:.*\bdeprecated\b"),
]


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
