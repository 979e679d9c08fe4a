"""Runs a training plan to its end: in this process, or on Ray with any number of workers.

Ray starts the workers; what they resume from is our own newest verified checkpoint, never Ray's.
Whether they are started again is decided here: Ray would repeat an error that must come again.
Imports nothing heavy: a run that is finished is recognised without torch or Ray.
"""

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage.errors import StorageError
from storage.layout import Layout
from storage.objects import open_store
from training.checkpoint_index import is_intact, step_prefix
from training.config import TrainPlan
from training.errors import TrainingError
from training.metrics import STEP, read_metrics
from training.ray_cluster import connected_ray, prepare_environment

logger = logging.getLogger(__name__)

_POLL_SECONDS = 1.0
_FINAL_ERRORS = (TrainingError, StorageError, ValueError)
"""About the plan, the data or the stored state, which the next try would find as they are."""

MetricsListener = Callable[[list[dict[str, Any]]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """What a Ray worker needs to know; pickled by Ray on its way there."""

    plan: TrainPlan
    store_uri: str
    work_dir: Path
    num_threads: int
    use_gpu: bool


def run_training(
    plan: TrainPlan,
    *,
    store_uri: str,
    num_workers: int,
    work_dir: Path,
    ray_address: str | None = None,
    use_gpu: bool = False,
    max_failures: int = 3,
    threads_per_worker: int | None = None,
    on_metrics: MetricsListener | None = None,
) -> str:
    """Train ``plan`` and return the prefix of its final checkpoint. Safe to retry at any time.

    Args:
        plan: What to train.
        store_uri: The object store; with several machines it must be one that all of them reach.
        num_workers: Ray workers; 0 trains in this process.
        work_dir: Local folder for caches; may be deleted between calls.
        ray_address: A running cluster; None starts one on this machine and stops it afterwards.
        use_gpu: One GPU a worker.
        max_failures: Deaths of a worker that are survived before giving up.
        threads_per_worker: Of torch; None shares this machine's processors.
        on_metrics: Called with new rows of metrics, in order, from a thread of its own.

    Raises:
        TrainingDivergedError: The loss or a gradient is not finite. As what else a worker finds
            wrong with plan, data or stored state, it is raised at once, whatever ``max_failures``.
        PlanMismatchError: There are checkpoints of another plan.
        CorruptError: Training data or the initial weights are altered.
        TrainingError: The workers failed more often than allowed.
        ValueError: The workers cannot share a global batch evenly.
    """
    final = step_prefix(plan.checkpoint_prefix, plan.num_steps)
    if is_intact(open_store(store_uri), final):
        return final
    plan.grad_accum_steps(max(1, num_workers))
    num_threads = threads_per_worker or max(1, (os.cpu_count() or 1) // max(1, num_workers))
    job = _Job(
        plan=plan, store_uri=store_uri, work_dir=work_dir, num_threads=num_threads, use_gpu=use_gpu
    )
    with _followed(plan, store_uri, on_metrics):
        if num_workers == 0:
            _run_here(job)
        else:
            _run_on_ray(job, num_workers, ray_address, max_failures)
    return final


def _run_here(job: _Job) -> None:
    # torch takes seconds to import, and a caller that only schedules does not need it.
    from training.worker import run_worker  # noqa: PLC0415

    run_worker(
        job.plan,
        job.store_uri,
        work_dir=job.work_dir,
        device="cuda:0" if job.use_gpu else "cpu",
        num_threads=job.num_threads,
    )


def _run_on_ray(job: _Job, num_workers: int, address: str | None, max_failures: int) -> None:
    prepare_environment(address)
    # Ray and torch take seconds to import, see above.
    from ray.train import FailureConfig, RunConfig, ScalingConfig  # noqa: PLC0415
    from ray.train.torch import TorchConfig, TorchTrainer  # noqa: PLC0415
    from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError  # noqa: PLC0415

    trainer = TorchTrainer(
        _run_ray_worker,
        train_loop_config={"job": job},
        torch_config=TorchConfig(backend="nccl" if job.use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=num_workers,
            use_gpu=job.use_gpu,
            resources_per_worker={"CPU": 1, **({"GPU": 1} if job.use_gpu else {})},
        ),
        run_config=RunConfig(
            name=job.plan.update,
            storage_path=str((job.work_dir / "ray").absolute()),
            # Left to Ray: machines that are reclaimed or not there yet, which it waits for.
            failure_config=FailureConfig(max_failures=0),
        ),
    )

    def attempt() -> Mapping[int, BaseException] | None:
        try:
            trainer.fit()
        except WorkerGroupError as error:
            logger.debug("workers of %s failed", job.plan.update, exc_info=True)
            return error.worker_failures
        except ControllerError as error:
            logger.debug("Ray gave up %s", job.plan.update, exc_info=True)
            raise TrainingError(
                f"Ray must keep the workers of {job.plan.update} running, and gave up: "
                f"{_first_line(error.controller_failure)}; look at the cluster, then run it again"
            ) from None
        return None

    with connected_ray(address, num_workers), _own_interrupt_handler():
        _repeat(attempt, job.plan.update, max_failures)


def _repeat(
    attempt: Callable[[], Mapping[int, BaseException] | None], update: str, max_failures: int
) -> None:
    """Repeat ``attempt``, which returns what ranks failed of, until none did.

    Raises:
        TrainingError: There were more than ``max_failures`` failures.
        Exception: The very error of a rank, when the next attempt would meet it again.
    """
    failures = 0
    while (errors := attempt()) is not None:
        for error in errors.values():
            if isinstance(error, _FINAL_ERRORS):
                raise error
        failures += 1
        if failures > max_failures:
            raise TrainingError(
                f"training of {update} must end with at most {max_failures} failures of its "
                f"workers, and failed again: {_reason(errors)}; run it again, it goes on from the "
                "newest checkpoint"
            )
        logger.warning(
            "workers of %s failed, %d of at most %d times: %s; they start again from the newest "
            "checkpoint",
            *(update, failures, max_failures, _reason(errors)),
        )


def _reason(errors: Mapping[int, BaseException]) -> str:
    """One rank's failure, in one line."""
    # When a rank dies, torch's exchange fails on the others with a RuntimeError: look past those.
    by_weight = sorted(
        errors.items(), key=lambda item: (isinstance(item[1], RuntimeError), item[0])
    )
    if not by_weight:
        return "Ray gave no reason"
    rank, error = by_weight[0]
    # Of a dead process Ray says first that it did not answer; why is inside.
    error = getattr(error, "health_check_failure", error)
    return f"rank {rank} ended with {type(error).__name__}: {_first_line(error)}"


def _first_line(error: BaseException) -> str:
    """Ray appends whole logs and traces."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")


def _run_ray_worker(config: dict[str, Any]) -> None:
    """Runs in each Ray worker; torch's process group exists."""
    import ray.train  # noqa: PLC0415  only Ray's own processes get here

    from training.worker import run_worker  # noqa: PLC0415  likewise

    job: _Job = config["job"]
    context = ray.train.get_context()
    run_worker(
        job.plan,
        job.store_uri,
        work_dir=job.work_dir.absolute(),
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        device="cuda:0" if job.use_gpu else "cpu",
        num_threads=job.num_threads,
    )


@contextlib.contextmanager
def _own_interrupt_handler() -> Generator[None]:
    """Put the handler of SIGINT back: Ray Train installs its own and leaves it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


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
