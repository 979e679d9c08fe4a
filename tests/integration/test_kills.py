"""Ten kills -9 at random times of everything that a training on Ray consists of: not a bit changes.

And nothing is left behind: no process, no shared memory, no socket, no temporary file.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from storage.objects import open_store
from tests.training.local_ranks import run_ranks
from tests.training.tiny_run import LAYOUT, tensors_of, tiny_plan
from training.checkpoint.index import committed_steps, step_prefix
from training.config import TrainPlan
from training.metrics import MEASURED, STEP, read_metrics

pytestmark = [pytest.mark.integration, pytest.mark.long]

TRAINING = """
import logging, sys
from pathlib import Path
from tests.training.tiny_run import tiny_plan
from training.launch import run_training

logging.basicConfig(level=logging.INFO)
root = Path(sys.argv[1])
plan, uri = tiny_plan(root / "store", num_steps=int(sys.argv[2]))
run_training(plan, store_uri=uri, num_workers=2, work_dir=root / "work", threads_per_worker=1,
             max_failures=50, silence_seconds=60)
"""
NUM_STEPS = 700
VICTIMS = {
    "worker": "RayTrainWorker",
    "driver": "training.cluster.driver",
    "head": "gcs_server",
    "node": "raylet/raylet",
    "flow": "",
}
"""What is killed, and what its command line has; the flow is the process that starts the others."""
ORDER = ["worker", "driver", "head", "flow", "node"] * 2
PATIENCE_SECONDS = 300


class Training:
    """A training that is started again when the process that holds the lease was killed."""

    def __init__(self, root: Path, plan: TrainPlan, uri: str) -> None:
        self.root, self.plan, self.uri = root, plan, uri
        self.log = root / "log"
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-c", TRAINING, str(self.root), str(self.plan.num_steps)]
        with self.log.open("ab") as log:
            self.flow = subprocess.Popen(command, stdout=log, stderr=log)

    @property
    def done(self) -> int:
        """Steps of the newest checkpoint."""
        steps = committed_steps(open_store(self.uri), self.plan.checkpoint_prefix)
        return max(steps, default=0)

    def kill(self, kind: str) -> None:
        """SIGKILL one process of this kind."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (found := self.processes(kind)):
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)
        found[-1].kill()
        if kind == "flow":
            self.flow.wait()
            self.start()

    def processes(self, kind: str) -> list[psutil.Process]:
        """Those of this kind that live."""
        flow = psutil.Process(self.flow.pid)
        if kind == "flow":
            return [flow]
        return [
            one for one in flow.children(recursive=True) if VICTIMS[kind] in " ".join(cmdline(one))
        ]

    def wait_for(self, step: int) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.done < step:
            assert self.flow.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)


def cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def left_behind() -> dict[str, set[str]]:
    """What a dead training could leave: processes by command, files by name, sockets by path."""
    rays = [one for one in psutil.process_iter() if is_of_ray(one)]
    sockets = Path("/proc/net/unix").read_text().split()
    return {
        "processes": {f"{one.pid}" for one in rays},
        "shared memory": {path.name for path in Path("/dev/shm").iterdir()},
        "temporary files": {
            str(path) for path in Path("/tmp").glob("perennial-own-ray-*/ray/*_*_*")
        },
        "sockets": {name for name in sockets if name.startswith("/tmp/perennial-own-ray-")},
    }


def is_of_ray(process: psutil.Process) -> bool:
    words = " ".join(cmdline(process))
    return any(
        name in words for name in ("gcs_server", "raylet", "ray::", "training.cluster.driver")
    )


def test_ten_kills_at_random_moments_change_no_bit_and_leave_nothing(tmp_path: Path) -> None:
    seed = int.from_bytes(os.urandom(4))
    rng = random.Random(seed)
    whole, whole_uri = tiny_plan(tmp_path / "whole", num_steps=NUM_STEPS)
    run_ranks(whole, whole_uri, tmp_path / "whole-work", world_size=2)
    plan, uri = tiny_plan(tmp_path / "store", num_steps=NUM_STEPS)
    before = left_behind()
    training = Training(tmp_path, plan, uri)
    try:
        for kind in rng.sample(ORDER, len(ORDER)):
            training.wait_for(training.done + 3)
            time.sleep(rng.uniform(0, 0.3))
            assert training.done < NUM_STEPS, f"seed {seed}: too few steps for all kills"
            training.kill(kind)
        assert training.flow.wait(PATIENCE_SECONDS) == 0, f"seed {seed}: {training.log.read_text()}"
    finally:
        training.flow.kill()
    final = step_prefix(plan.checkpoint_prefix, NUM_STEPS)
    ours, theirs = open_store(uri), open_store(whole_uri)
    assert tensors_of(ours, final) == tensors_of(theirs, final), f"seed {seed}"
    rows, expected = (read_metrics(store, LAYOUT.metrics("u1")) for store in (ours, theirs))
    assert [row[STEP] for row in rows] == list(range(1, NUM_STEPS + 1))
    for row, other in zip(rows, expected, strict=True):
        assert {name: row[name] for name in row if name not in MEASURED} == {
            name: other[name] for name in other if name not in MEASURED
        }
    deadline = time.monotonic() + 60
    while any(left_behind()[kind] - before[kind] for kind in before):
        now = left_behind()
        assert time.monotonic() < deadline, {kind: now[kind] - before[kind] for kind in before}
        time.sleep(0.5)


def test_a_second_signal_is_not_needed(tmp_path: Path) -> None:
    """SIGINT ends a training and its Ray, which the terminal's Ctrl-C does not reach."""
    plan, uri = tiny_plan(tmp_path / "store", num_steps=NUM_STEPS)
    training = Training(tmp_path, plan, uri)
    training.wait_for(3)
    family = psutil.Process(training.flow.pid).children(recursive=True)
    assert len(family) > 3
    training.flow.send_signal(signal.SIGINT)
    assert training.flow.wait(30) != 0
    _, alive = psutil.wait_procs(family, 30)
    assert alive == []
