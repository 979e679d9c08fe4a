"""Runs a training plan to its end: in this process, or on Ray with any number of workers.

Imports nothing heavy: a run that is finished is recognised without torch or Ray.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from storage.layout import Layout
from storage.objects import open_store
from training.checkpoint_index import is_intact, step_prefix
from training.config import TrainPlan
from training.metrics import STEP, read_metrics
from training.ray_run import Job, Patience, run_on_ray

_POLL_SECONDS = 1.0

MetricsListener = Callable[[list[dict[str, Any]]], None]


def run_training(
    plan: TrainPlan,
    *,
    store_uri: str,
    num_workers: int,
    work_dir: Path,
    ray_address: str | None = None,
    use_gpu: bool = False,
    max_failures: int = 3,
    wait_seconds: float = 3600.0,
    silence_seconds: float = 900.0,
    threads_per_worker: int | None = None,
    on_metrics: MetricsListener | None = None,
) -> str:
    """Train ``plan`` and return the prefix of its final checkpoint. Safe to retry at any time.

    Args:
        plan: What to train.
        store_uri: The object store; with several machines it must be one that all of them reach.
        num_workers: Ray workers; 0 trains in this process.
        work_dir: Folder for caches, created on every machine that has a worker and shared by none;
            may be deleted between calls.
        ray_address: A running cluster; None starts one on this machine and stops it afterwards.
        use_gpu: One GPU a worker.
        max_failures: Deaths of a worker that are survived before giving up.
        wait_seconds: How long a running cluster may lack room for the workers, at the start or
            after it lost a machine, before giving up.
        silence_seconds: How long a rank may wait for another before it counts as lost. Must exceed
            the time in which rank 0 stores a checkpoint.
        threads_per_worker: Of torch; None shares this machine's processors.
        on_metrics: Called with new rows of metrics, in order, from a thread of its own.

    Raises:
        TrainingDivergedError: The loss or a gradient is not finite. As what else a worker finds
            wrong with plan, data or stored state, it is raised at once, whatever ``max_failures``.
        PlanMismatchError: There are checkpoints of another plan.
        CorruptError: Training data or the initial weights are altered.
        TrainingError: The workers failed more often than allowed, or there was no room for them.
        ValueError: The workers cannot share a global batch evenly.
    """
    final = step_prefix(plan.checkpoint_prefix, plan.num_steps)
    if is_intact(open_store(store_uri), final):
        return final
    plan.grad_accum_steps(max(1, num_workers))
    num_threads = threads_per_worker or max(1, (os.cpu_count() or 1) // max(1, num_workers))
    job = Job(
        plan=plan, store_uri=store_uri, work_dir=work_dir, num_threads=num_threads, use_gpu=use_gpu
    )
    patience = Patience(
        max_failures=max_failures, wait_seconds=wait_seconds, silence_seconds=silence_seconds
    )
    with _followed(plan, store_uri, on_metrics):
        if num_workers == 0:
            _run_here(job)
        else:
            run_on_ray(job, num_workers, ray_address, patience)
    return final


def _run_here(job: Job) -> None:
    # torch takes seconds to import, and a caller that only schedules does not need it.
    from training.worker import run_worker  # noqa: PLC0415

    run_worker(
        job.plan,
        job.store_uri,
        work_dir=job.work_dir,
        device="cuda:0" if job.use_gpu else "cpu",
        num_threads=job.num_threads,
    )


@contextlib.contextmanager
def _followed(plan: TrainPlan, store_uri: str, listener: MetricsListener | None) -> Generator[None]:
    """Hand new rows of metrics to ``listener`` while the body runs, and the last ones after it."""
    if listener is None:
        yield
        return
    done = threading.Event()
    prefix = Layout(plan.lineage).metrics(plan.update)

    def follow() -> None:
        store = open_store(store_uri)
        seen = 0
        is_over = False
        while not is_over:
            # Once more after the end, or the last rows would be lost.
            is_over = done.wait(_POLL_SECONDS)
            rows = read_metrics(store, prefix, after_step=seen)
            if rows:
                seen = rows[-1][STEP]
                listener(rows)

    follower = threading.Thread(target=follow, name="metrics", daemon=True)
    follower.start()
    try:
        yield
    finally:
        done.set()
        follower.join()
