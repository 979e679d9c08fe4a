"""Launching: finished runs cost nothing; workers and drivers on Ray may die at any time."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from storage.objects import open_store
from tests.training.tiny_run import LAYOUT, tiny_plan
from training.config import TrainPlan
from training.launch import run_training
from training.metrics import CHECKSUM, STEP, read_metrics

DRIVER = """
import sys
from pathlib import Path
from tests.training.tiny_run import tiny_plan
from training.launch import run_training

root = Path(sys.argv[1])
plan, uri = tiny_plan(root / "store", num_steps=int(sys.argv[2]))
run_training(plan, store_uri=uri, num_workers=int(sys.argv[3]), work_dir=root / "work",
             threads_per_worker=1)
heavy = sorted({"torch", "ray", "streaming"} & set(sys.modules))
print("loaded", heavy)
"""

# Importing ray.train reads and writes deprecated fields of ray.data.
ray_data_warns = pytest.mark.filterwarnings(r"ignore:.*\bdeprecated\b")


def start_driver(root: Path, *, num_steps: int, num_workers: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", DRIVER, str(root), str(num_steps), str(num_workers)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def undisturbed(tmp_path: Path, num_steps: int) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    plan, uri = tiny_plan(tmp_path / "undisturbed", num_steps=num_steps)
    rows: list[dict[str, Any]] = []
    final = run_training(
        plan,
        store_uri=uri,
        num_workers=0,
        work_dir=tmp_path / "work",
        threads_per_worker=1,
        on_metrics=rows.extend,
    )
    return rows, weights(plan, uri, final)


def weights(plan: TrainPlan, uri: str, final: str) -> dict[str, bytes]:
    names = ("model.safetensors", "optimizer.safetensors")
    return {name: open_store(uri).get(f"{final}/{name}") for name in names}


def test_the_listener_hears_every_step_once_and_a_finished_run_loads_nothing(
    tmp_path: Path,
) -> None:
    plan, uri = tiny_plan(tmp_path / "store", num_steps=5)
    rows: list[dict[str, Any]] = []
    arguments: dict[str, Any] = {"store_uri": uri, "num_workers": 0, "threads_per_worker": 1}
    final = run_training(plan, work_dir=tmp_path / "w", on_metrics=rows.extend, **arguments)
    assert [row[STEP] for row in rows] == [1, 2, 3, 4, 5]
    assert final == f"{plan.checkpoint_prefix}/step-5"
    driver = start_driver(tmp_path, num_steps=5, num_workers=2)
    assert driver.communicate()[0].strip() == "loaded []"


def test_workers_that_cannot_share_a_batch_are_refused_before_anything_starts(
    tmp_path: Path,
) -> None:
    plan, uri = tiny_plan(tmp_path)
    with pytest.raises(ValueError, match="3 workers cannot share the 8 samples"):
        run_training(plan, store_uri=uri, num_workers=3, work_dir=tmp_path)


def wait_for_step(plan: TrainPlan, uri: str, step: int, driver: "subprocess.Popen[str]") -> None:
    """Until a checkpoint of ``step`` or later was committed; looks a few times a second."""
    from training.state import committed_steps

    while not any(
        done >= step for done in committed_steps(open_store(uri), plan.checkpoint_prefix)
    ):
        with pytest.raises(subprocess.TimeoutExpired, match="timed out"):
            driver.wait(0.05)


def ray_workers(driver: "subprocess.Popen[str]") -> list[psutil.Process]:
    children = psutil.Process(driver.pid).children(recursive=True)
    return [child for child in children if "RayTrainWorker" in " ".join(child.cmdline())]


@ray_data_warns
@pytest.mark.ray
def test_on_ray_neither_a_dead_worker_nor_a_dead_driver_changes_a_bit(tmp_path: Path) -> None:
    num_steps = 150
    plan, uri = tiny_plan(tmp_path / "store", num_steps=num_steps)

    driver = start_driver(tmp_path, num_steps=num_steps, num_workers=1)
    wait_for_step(plan, uri, 3, driver)
    (victim,) = ray_workers(driver)
    victim.kill()
    wait_for_step(plan, uri, 40, driver)
    assert [worker.pid for worker in ray_workers(driver)] != [victim.pid]
    os.kill(driver.pid, signal.SIGKILL)
    driver.communicate()

    final = run_training(
        plan, store_uri=uri, num_workers=1, work_dir=tmp_path / "work", threads_per_worker=1
    )
    rows, expected = undisturbed(tmp_path, num_steps)
    assert weights(plan, uri, final) == expected
    mine = read_metrics(open_store(uri), LAYOUT.metrics(plan.update))
    assert [(row[STEP], row[CHECKSUM]) for row in mine] == [
        (row[STEP], row[CHECKSUM]) for row in rows
    ]


@ray_data_warns
@pytest.mark.ray
def test_two_workers_take_the_samples_of_one(tmp_path: Path) -> None:
    rows, _ = undisturbed(tmp_path, 6)
    plan, uri = tiny_plan(tmp_path / "two", num_steps=6)
    heard: list[dict[str, Any]] = []
    run_training(
        plan,
        store_uri=uri,
        num_workers=2,
        work_dir=tmp_path / "work-two",
        threads_per_worker=1,
        on_metrics=heard.extend,
    )
    assert [row[CHECKSUM] for row in heard] == [row[CHECKSUM] for row in rows]
    assert [row["train/loss"] for row in heard] == pytest.approx(
        [row["train/loss"] for row in rows], rel=1e-4
    )
