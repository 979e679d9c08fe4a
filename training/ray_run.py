"""Keeps the Ray workers of one training going: starts them, and starts them again when they die.

Ray starts the workers; what they resume from is our own newest verified checkpoint, never Ray's.
Whether they are started again is decided here: Ray would repeat an error that must come again, and
wait for lost machines for ever. No worker needs a file of another machine: data and checkpoints go
through the object store, whose credentials every process finds in its own machine's environment.
Importing this module does not import torch or Ray.
"""

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage.errors import StorageError
from training.config import TrainPlan
from training.errors import TrainingError
from training.ray_cluster import connected_ray, prepare_environment, require_head

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.exceptions import ControllerError

logger = logging.getLogger(__name__)

Failures = Mapping[int, BaseException]
"""What ranks ended with; ``CONTROLLER`` stands for the process of Ray that watches them."""
CONTROLLER = -1

_FINAL_ERRORS = (TrainingError, StorageError, ValueError)
"""About the plan, the data or the stored state, which the next try would find as they are."""
_START_SECONDS = 60.0
"""How long Ray waits for room at a time; an interrupt is heard in between."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a Ray worker needs to know; pickled by Ray on its way there."""

    plan: TrainPlan
    store_uri: str
    work_dir: Path
    """On whatever machine the worker is; created there."""
    num_threads: int
    use_gpu: bool

    @property
    def resources(self) -> dict[str, float]:
        """Of one worker, in Ray's words."""
        return {"CPU": 1, "GPU": 1} if self.use_gpu else {"CPU": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """When a worker counts as lost, and how much of that is borne."""

    max_failures: int
    wait_seconds: float
    """For room in the cluster."""
    silence_seconds: float
    """Of one rank towards another."""


def run_on_ray(job: Job, num_workers: int, address: str | None, patience: Patience) -> None:
    """Run ``job`` to its end on ``num_workers`` workers of the Ray at ``address``, or of our own.

    The process of Ray that watches the workers runs on this process's own machine, so that the loss
    of any other machine leaves it alive. A machine that dies is noticed when its connections break;
    one that falls silent, when Ray's head gives it up (``RAY_health_check_*`` of the head), or
    after ``silence_seconds``.

    Raises:
        TrainingError: There were more failures than ``patience`` allows, no room in time, or no
            such cluster.
    """
    if address is not None:
        require_head(address)
    prepare_environment(address)
    # A cluster of our own has all the room it will ever have.
    wait_seconds = patience.wait_seconds if address else 0.0
    # Ray hands this on to the process that watches the workers.
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = (
        f"{min(wait_seconds, _START_SECONDS) or _START_SECONDS:g}"
    )
    trainer = _trainer(job, num_workers, patience.silence_seconds)
    with connected_ray(address, num_workers), _own_interrupt_handler():
        repeat(
            lambda: _attempt(trainer, job, num_workers, wait_seconds),
            job.plan.update,
            patience.max_failures,
        )


def _trainer(job: Job, num_workers: int, silence_seconds: float) -> "TorchTrainer":
    # Ray and torch take seconds to import, and a finished run needs neither.
    from ray.train import FailureConfig, RunConfig, ScalingConfig  # noqa: PLC0415
    from ray.train.torch import TorchTrainer  # noqa: PLC0415

    from training.process_group import NodeTorchConfig  # noqa: PLC0415

    return TorchTrainer(
        _run_ray_worker,
        train_loop_config={"job": job},
        torch_config=NodeTorchConfig(
            backend="nccl" if job.use_gpu else "gloo", timeout_s=max(1, round(silence_seconds))
        ),
        scaling_config=ScalingConfig(
            num_workers=num_workers,
            use_gpu=job.use_gpu,
            resources_per_worker=job.resources,
        ),
        run_config=RunConfig(
            name=job.plan.update,
            # Of this machine alone: Ray would share it for checkpoints of its own, which we do not
            # make.
            storage_path=str((job.work_dir / "ray").absolute()),
            # Left to Ray: machines whose end is announced.
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=0),
        ),
    )


def _attempt(
    trainer: "TorchTrainer", job: Job, num_workers: int, wait_seconds: float
) -> Failures | None:
    """One life of the worker group: None when it reached the end, else what was lost.

    Raises:
        TrainingError: There was no room for the workers for ``wait_seconds``.
    """
    from ray.exceptions import RayActorError  # noqa: PLC0415  heavy, see above
    from ray.train.v2._internal.exceptions import (  # noqa: PLC0415
        WorkerGroupStartupFailedError,
        WorkerGroupStartupTimeoutError,
    )
    from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError  # noqa: PLC0415

    update = job.plan.update
    give_up_at = time.monotonic() + wait_seconds
    while True:
        try:
            trainer.fit()
        except WorkerGroupError as error:
            logger.debug("workers of %s failed", update, exc_info=True)
            return error.worker_failures
        except RayActorError as error:
            logger.debug("the controller of %s died", update, exc_info=True)
            return {CONTROLLER: error}
        except ControllerError as error:
            logger.debug("Ray gave up %s", update, exc_info=True)
            cause = error.controller_failure
            if isinstance(cause, WorkerGroupStartupFailedError | RayActorError):
                return {CONTROLLER: cause}
            if not isinstance(cause, WorkerGroupStartupTimeoutError):
                raise _given_up(error, update) from None
            no_room = _no_room(job, num_workers, wait_seconds)
            if time.monotonic() >= give_up_at:
                raise TrainingError(no_room) from None
            logger.warning("%s", no_room)
        else:
            return None


def _given_up(error: "ControllerError", update: str) -> TrainingError:
    return TrainingError(
        f"Ray must keep the workers of {update} running, and gave up: "
        f"{_first_line(error.controller_failure)}; look at the cluster, then run it again"
    )


def _no_room(job: Job, num_workers: int, wait_seconds: float) -> str:
    """What is missing, in one sentence."""
    import ray  # noqa: PLC0415  heavy, see above

    nodes: list[dict[str, Any]] = ray.nodes()
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    found = " and ".join(
        f"{sum(node.get(kind, 0) for node in alive):g} {kind}" for kind in job.resources
    )
    return (
        f"{job.plan.update} needs room for {num_workers} workers within {wait_seconds:g} s, and "
        f"the {len(alive)} machines of the cluster have {found} in all, other jobs included; add "
        "machines, or run it again with a lower compute.num_workers: it goes on from the newest "
        "checkpoint"
    )


def repeat(attempt: Callable[[], Failures | None], update: str, max_failures: int) -> None:
    """Repeat ``attempt``, which returns what was lost, until nothing was.

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


def _reason(errors: Failures) -> str:
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
    who = "Ray's controller" if rank == CONTROLLER else f"rank {rank}"
    return f"{who} ended with {type(error).__name__}: {_first_line(error)}"


def _first_line(error: BaseException) -> str:
    """Ray appends whole logs and traces."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")


def _run_ray_worker(config: dict[str, Any]) -> None:
    """Runs in each Ray worker; torch's process group exists."""
    import ray.train  # noqa: PLC0415  only Ray's own processes get here

    from training.worker import run_worker  # noqa: PLC0415  likewise

    job: Job = config["job"]
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
