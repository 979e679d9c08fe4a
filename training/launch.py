"""Runs a training plan to its end: in this process, or on Ray with any number of workers.

Imports nothing heavy: a run that is finished is recognised without torch or Ray.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from storage.layout import Layout
from storage.objects import open_store
from training.checkpoint.index import CheckpointConfig, committed_steps, is_intact, step_prefix
from training.cluster.elastic import Workers, usable_counts
from training.cluster.run import Job, Patience, run_on_ray
from training.config import TrainPlan
from training.errors import TrainingStoppedError
from training.metrics import JournalFollower
from training.parallel.config import ParallelConfig

_POLL_SECONDS = 1.0

MetricsListener = Callable[[list[dict[str, Any]]], None]


def run_training(
    plan: TrainPlan,
    *,
    store_uri: str,
    num_workers: int | Workers,
    work_dir: Path,
    ray_address: str | None = None,
    use_gpu: bool = False,
    max_failures: int = 3,
    wait_seconds: float = 3600.0,
    silence_seconds: float = 900.0,
    threads_per_worker: int | None = None,
    parallel: ParallelConfig | None = None,
    checkpoints: CheckpointConfig | None = None,
    on_metrics: MetricsListener | None = None,
    is_asked_to_stop: Callable[[], bool] = lambda: False,
) -> str:
    """Train ``plan`` and return the prefix of its final checkpoint. Safe to retry at any time.

    Args:
        plan: What to train.
        store_uri: The object store; with several machines it must be one that all of them reach.
        num_workers: Ray workers, or the fewest and the most: each life of the workers takes the
            largest number that divides the global batch and has room. 0 trains in this process.
        work_dir: Folder for caches, created on every machine that has a worker and shared by none;
            may be deleted between calls.
        ray_address: A running cluster; None starts one on this machine and stops it afterwards.
        use_gpu: One GPU a worker.
        max_failures: Deaths of a worker that are survived before giving up.
        wait_seconds: How long a running cluster may lack room for the workers, at the start or
            after it lost a machine, or its head, before giving up.
        silence_seconds: How long a rank may wait for another before it counts as lost. Must exceed
            the time in which rank 0 stores a checkpoint.
        threads_per_worker: Of torch; None shares this machine's processors.
        parallel: How the model is spread over the workers; None: as ``ParallelConfig`` says.
        checkpoints: How they are stored; None: as ``CheckpointConfig`` says.
        on_metrics: Called with new rows of metrics, in order, from a thread of its own.
        is_asked_to_stop: Looked at several times a second, and before every step that is taken in
            this process; once true, the training ends after the step that it is in.

    Raises:
        TrainingDivergedError: Too many steps are not finite, or a spike comes again. As what else a
            worker finds wrong with plan, data or stored state, it is raised at once, whatever
            ``max_failures``.
        PlanMismatchError: There are checkpoints of another plan.
        CorruptError: Training data or the initial weights are altered.
        TrainingStoppedError: It was asked to stop, and has saved a checkpoint.
        TrainingError: The workers failed more often than allowed, or there was no room for them.
        ValueError: The workers cannot share a global batch evenly.
    """
    final = step_prefix(plan.checkpoint_prefix, plan.num_steps)
    if is_intact(open_store(store_uri), final):
        return final
    workers = (num_workers, num_workers) if isinstance(num_workers, int) else num_workers
    if workers[1]:
        usable_counts(workers, plan.global_batch_samples, parallel)
    # By the most: the number of threads decides how a sum is rounded, and must stay as it is.
    num_threads = threads_per_worker or max(1, (os.cpu_count() or 1) // max(1, workers[1]))
    job = Job(
        plan=plan,
        store_uri=store_uri,
        work_dir=work_dir,
        num_threads=num_threads,
        use_gpu=use_gpu,
        parallel=parallel or ParallelConfig(),
        checkpoints=checkpoints or CheckpointConfig(),
        asked_at=time.time(),
    )
    patience = Patience(
        max_failures=max_failures, wait_seconds=wait_seconds, silence_seconds=silence_seconds
    )
    with _followed(plan, store_uri, on_metrics):
        if workers[1] == 0:
            _run_here(job, is_asked_to_stop)
        else:
            run_on_ray(job, workers, ray_address, patience, is_asked_to_stop)
    done = max(committed_steps(open_store(store_uri), plan.checkpoint_prefix), default=0)
    if done < plan.num_steps:
        raise TrainingStoppedError(
            f"training of {plan.update} was asked to stop, and has done {done} of "
            f"{plan.num_steps} steps; run it again, it goes on from there"
        )
    return final


def _run_here(job: Job, is_asked_to_stop: Callable[[], bool]) -> None:
    # torch takes seconds to import, and a caller that only schedules does not need it.
    from training.worker import run_worker  # noqa: PLC0415

    run_worker(
        job.plan,
        job.store_uri,
        work_dir=job.work_dir,
        device="cuda:0" if job.use_gpu else "cpu",
        num_threads=job.num_threads,
        is_asked_to_stop=is_asked_to_stop,
        asked_at=job.asked_at,
        parallel=job.parallel,
        checkpoints=job.checkpoints,
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
        journal = JournalFollower(open_store(store_uri), prefix)
        is_over = False
        while not is_over:
            # Once more after the end, or the last rows would be lost.
            is_over = done.wait(_POLL_SECONDS)
            rows = journal.new_rows()
            if rows:
                listener(rows)

    follower = threading.Thread(target=follow, name="metrics", daemon=True)
    follower.start()
    try:
        yield
    finally:
        done.set()
        follower.join()
