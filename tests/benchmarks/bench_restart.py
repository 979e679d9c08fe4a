"""From ``kill -9`` of a trainer to the next optimizer step, and the steps after it.

A worker trains the fixed workload of the checkpoints (54M parameters, 650 MB of state) and is
killed; another process goes on in its place. Beside it, a process that only starts and imports what
a worker imports: the difference is what the restart itself costs. Run it with ``make bench``, or
``python tests/benchmarks/bench_restart.py --help``.
"""

# ruff: noqa: T201  a script for people

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from storage.local_objects import LocalObjects
from tests.benchmarks import workload
from training.checkpoint.index import committed_steps
from training.config import ScheduleConfig, TrainPlan
from training.schedule import resolve

EVERY_STEPS = 10
STEPS_AFTER = 10


def main() -> None:
    """Measure and print; with ``--child``, be one of the processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--samples", type=int, default=32, help="of 256 tokens a step")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        kind, folder, snapshot, samples = arguments.child
        _be_worker(kind, Path(folder), snapshot, int(samples))
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        rows = workload.sparse_bigram_rows(100)
        snapshot, _ = workload.store_rows(LocalObjects(root / "store"), rows)
        for number in range(arguments.rounds):
            _measure(root, snapshot, arguments.samples, number)


def _measure(root: Path, snapshot: str, samples: int, number: int) -> None:
    arguments = [str(root), snapshot, str(samples)]
    plan = _plan(snapshot, samples)
    store = LocalObjects(root / "store")
    committed_before = max(committed_steps(store, plan.checkpoint_prefix), default=0)
    first, events = _start("train", arguments)
    for name, _ in events:
        # In the middle of an interval, the last checkpoint of which is in the store.
        is_committed = max(committed_steps(store, plan.checkpoint_prefix), default=0)
        if name.startswith("step") and is_committed > committed_before:
            break
    killed_at = time.time()
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    second, events = _start("train", arguments)
    at: dict[str, float] = {}
    for name, when in events:
        at[name] = when - killed_at
        if sum(seen.startswith("step") for seen in at) == STEPS_AFTER:
            break
    second.kill()
    second.wait()
    started_at = time.time()
    bare, events = _start("import", arguments)
    imported = dict(events)["imported"] - started_at
    bare.wait()
    steps = [when for name, when in at.items() if name.startswith("step")]
    durations = [later - earlier for earlier, later in pairwise(steps)]
    print(
        f"round {number}: {next(name for name in at if name.startswith('step'))} {steps[0]:.2f} s "
        f"after the kill; a bare start with its imports {imported:.2f} s; difference "
        f"{steps[0] - imported:.2f} s"
    )
    print(
        f"  imported {at['imported']:.2f} s, state restored and ready {at['ready']:.2f} s, "
        f"first step {steps[0] - at['ready']:.2f} s, second {durations[0]:.2f} s, tenth "
        f"{durations[-1]:.2f} s, median of the others {statistics.median(durations):.2f} s"
    )


def _start(
    kind: str, arguments: list[str]
) -> tuple[subprocess.Popen[str], Generator[tuple[str, float]]]:
    command = [sys.executable, __file__, "--child", kind, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def events() -> Generator[tuple[str, float]]:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("at "):
                _, name, when = line.split()
                yield name, float(when)

    return process, events()


def _plan(snapshot: str, samples: int) -> TrainPlan:
    plan = workload.make_plan(snapshot, 100 * workload.GLOBAL_BATCH_SAMPLES, num_steps=100)
    num_steps = 100 * workload.GLOBAL_BATCH_SAMPLES // samples
    tokens = num_steps * samples * workload.SEQ_LEN
    return replace(
        plan,
        model=workload.CHECKPOINT_MODEL,
        global_batch_samples=samples,
        num_steps=num_steps,
        trunk_step=num_steps,
        schedule=resolve(ScheduleConfig(eta_max=1e-4), total_tokens=tokens),
        checkpoint_every_steps=EVERY_STEPS,
    )


def _be_worker(kind: str, root: Path, snapshot: str, samples: int) -> None:
    from training.worker import run_worker

    _tell("imported")
    if kind == "import":
        return

    def on_ready(_model: Any, optimizer: Any, step: int) -> None:
        _tell("ready")
        taken = [step]

        def count(*_: object) -> None:
            taken[0] += 1
            _tell(f"step-{taken[0]}")

        optimizer.register_step_post_hook(count)

    run_worker(
        _plan(snapshot, samples),
        LocalObjects(root / "store").uri,
        work_dir=root / "work",
        on_ready=on_ready,
    )


def _tell(event: str) -> None:
    print("at", event, time.time(), flush=True)


if __name__ == "__main__":
    main()
