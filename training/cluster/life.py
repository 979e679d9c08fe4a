"""Lives of the worker group: how many workers, Ray's trainer, how they ended; what a worker does.

Imports Ray inside its functions only; runs in the process of ``training.cluster.driver``.
"""

import logging
import secrets
import threading
import time
from typing import TYPE_CHECKING, Any

from storage.objects import open_store
from training.checkpoint.index import committed_steps
from training.cluster.elastic import usable_counts
from training.cluster.failures import CONTROLLER, Failures, portable
from training.cluster.overseer import overseen
from training.cluster.room import no_room, room_for
from training.cluster.run import Job, Request
from training.cluster.watchdog import Watchdog
from training.errors import TrainingError

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer

logger = logging.getLogger(__name__)


def live(request: Request, stop: threading.Event) -> Failures | None:
    """One life of the worker group: None when it came to the end or to a wished stop.

    A life that was stopped because there is room for more workers, or because a machine is about to
    end, goes over into the next one.

    Raises:
        TrainingError: There was no room for the workers for as long as may be waited.
    """
    while True:
        failures = _life(request, stop)
        if failures is not None or stop.is_set() or _is_finished(request.job):
            return failures
        request = request.asked_again()


def _is_finished(job: Job) -> bool:
    steps = committed_steps(open_store(job.store_uri), job.plan.checkpoint_prefix)
    return job.plan.num_steps in steps


def _life(request: Request, stop: threading.Event) -> Failures | None:
    """From the choice of a number of workers to their end."""
    job, wait_seconds = request.job, request.wait_seconds
    counts = usable_counts(request.workers, job.plan.global_batch_samples, job.parallel)
    give_up_at = time.monotonic() + wait_seconds
    while (num_workers := room_for(counts, job, stop, wait_seconds)) is not None:
        if len(counts) > 1:
            logger.info("%s runs on %d workers", job.plan.update, num_workers)
        logger.info(
            "waiting for Ray: room for %s",
            f"{num_workers} workers" if num_workers > 1 else "1 worker",
        )
        board = secrets.token_hex(8)
        trainer = _trainer(job, num_workers, request.patience.silence_seconds, board)
        with overseen(request, board, num_workers, counts, stop) as watchdog:
            try:
                return attempt(trainer, job.plan.update, watchdog)
            except TimeoutError:
                missing = no_room(job, counts, wait_seconds)
                if time.monotonic() >= give_up_at:
                    raise TrainingError(missing) from None
                logger.warning("%s", missing)
    return None


def _trainer(job: Job, num_workers: int, silence_seconds: float, board: str) -> "TorchTrainer":
    """Ray's trainer of ``num_workers``, which use the board of this name."""
    # Ray and torch take seconds to import, and whoever imports this module may need neither.
    from ray.train import FailureConfig, RunConfig, ScalingConfig  # noqa: PLC0415
    from ray.train.torch import TorchTrainer  # noqa: PLC0415

    from training.cluster.process_group import NodeTorchConfig  # noqa: PLC0415

    return TorchTrainer(
        _run_ray_worker,
        train_loop_config={"job": job, "board": board},
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
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=0),
        ),
    )


def attempt(trainer: "TorchTrainer", update: str, watchdog: Watchdog) -> Failures | None:
    """Run the workers: None when they ended by themselves, else what was lost.

    Raises:
        TimeoutError: There was no room for them.
        TrainingError: Ray sees no sense in going on.
    """
    from ray.exceptions import RayActorError  # noqa: PLC0415  heavy, see above
    from ray.train.v2._internal.exceptions import (  # noqa: PLC0415
        WorkerGroupStartupFailedError,
        WorkerGroupStartupTimeoutError,
    )
    from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError  # noqa: PLC0415

    try:
        trainer.fit()
    except WorkerGroupError as error:
        logger.debug("workers of %s failed", update, exc_info=True)
        return portable(error.worker_failures, watchdog.missing(time.monotonic()))
    except RayActorError as error:
        logger.debug("the controller of %s died", update, exc_info=True)
        return portable({CONTROLLER: error})
    except ControllerError as error:
        logger.debug("Ray gave up %s", update, exc_info=True)
        cause = error.controller_failure
        if isinstance(cause, WorkerGroupStartupFailedError | RayActorError):
            return portable({CONTROLLER: cause})
        if isinstance(cause, WorkerGroupStartupTimeoutError):
            raise TimeoutError from None
        told = next((line for line in str(cause).splitlines() if line.strip()), "no message")
        raise TrainingError(
            f"Ray must keep the workers of {update} running, and gave up: {told.strip()}; look at "
            "the cluster, then run it again"
        ) from None
    return None


def _run_ray_worker(config: dict[str, Any]) -> None:
    """Runs in each Ray worker; torch's process group exists."""
    import ray  # noqa: PLC0415  only Ray's own processes get here
    import ray.train  # noqa: PLC0415  likewise

    from training.cluster.board import Board, on_board  # noqa: PLC0415  likewise
    from training.cluster.pulse import Pulse  # noqa: PLC0415  likewise
    from training.worker import run_worker  # noqa: PLC0415  likewise

    job: Job = config["job"]
    context = ray.train.get_context()
    rank = context.get_world_rank()
    pulse = Pulse(rank, node=ray.get_runtime_context().get_node_id())
    with on_board(Board(config["board"]), pulse) as is_asked_to_stop:
        run_worker(
            job.plan,
            job.store_uri,
            work_dir=job.work_dir.absolute(),
            rank=rank,
            world_size=context.get_world_size(),
            device="cuda:0" if job.use_gpu else "cpu",
            num_threads=job.num_threads,
            is_asked_to_stop=is_asked_to_stop,
            on_ready=pulse.watch,
            on_stage=pulse.begin_stage,
            asked_at=job.asked_at,
            parallel=job.parallel,
            checkpoints=job.checkpoints,
        )
