"""Launching: finished runs cost nothing; what ends one, and what is tried again."""

import logging
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from storage.errors import CorruptError
from tests.training.tiny_run import tiny_plan
from training.cluster.failures import repeat
from training.errors import (
    PlanMismatchError,
    TrainingDivergedError,
    TrainingError,
)
from training.launch import run_training
from training.metrics import STEP

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
