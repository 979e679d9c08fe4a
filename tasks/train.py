"""Train one update and wait; returns its final checkpoint."""

import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from infra.bounds import Bounds
from infra.progress import Progress
from training.config import FORBID_UNKNOWN, TrainPlan

logger = logging.getLogger(__name__)

Metrics = dict[str, Any]
"""One step's metrics by name, as ``training.metrics`` writes them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ComputeConfig:
    """Where and how wide training runs. Never part of an identity."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN

    num_workers: Annotated[int, Bounds(ge=0, unit="workers")] = 1
    """Ray workers; 0 trains in the flow's own process, without Ray."""
    use_gpu: bool = False
    """One GPU a worker."""
    threads_per_worker: Annotated[int | None, Bounds(gt=0)] = None
    """CPU threads of each worker; all cores shared evenly if not set."""
    max_failures: Annotated[int, Bounds(ge=0)] = 3
    """Worker groups lost before the training is given up; each starts again from the newest
    checkpoint."""


def train(
    plan: TrainPlan,
    *,
    store_uri: str,
    compute: ComputeConfig,
    work_dir: Path,
    ray_address: str = "",
    on_metrics: Callable[[list[Metrics]], None] | None = None,
) -> str:
    """Train ``plan`` to its end; returns the prefix of its final checkpoint.

    Safe to retry: training goes on from the newest committed checkpoint, and a finished one is
    returned at once.
    """
    # Not at the top: torch and Ray take seconds to import, and who merely schedules needs neither.
    from training.launch import run_training  # noqa: PLC0415

    total_tokens = plan.num_steps * plan.global_batch_tokens
    with Progress("train", total_tokens, "tokens") as progress:

        def follow(batch: list[Metrics]) -> None:
            if batch:
                last = batch[-1]
                progress.update(
                    last["tokens_seen"],
                    f"step {last['step']}/{plan.num_steps}, "
                    f"loss {last['train/loss']:.3f} nats per token",
                )
            if on_metrics is not None:
                on_metrics(batch)

        return run_training(
            plan,
            store_uri=store_uri,
            num_workers=compute.num_workers,
            threads_per_worker=compute.threads_per_worker,
            use_gpu=compute.use_gpu,
            max_failures=compute.max_failures,
            work_dir=work_dir,
            ray_address=ray_address or None,
            on_metrics=follow,
        )


class MetricRelay:
    """Hands batches of metrics to a slow receiver, on a thread of its own.

    ``make_receiver`` runs on that thread too: making the receiver may mean importing MLflow, which
    takes seconds. An error of the receiver is raised by ``close``; the metrics themselves are safe
    in the store.
    """

    def __init__(self, make_receiver: Callable[[], Callable[[list[Metrics]], None]]) -> None:
        self._queue: queue.Queue[list[Metrics] | None] = queue.Queue()
        self._error: Exception | None = None
        self._thread = threading.Thread(
            target=self._run, args=(make_receiver,), name="metric-relay", daemon=True
        )
        self._thread.start()

    def __call__(self, batch: list[Metrics]) -> None:
        """Queue a batch; returns at once."""
        self._queue.put(batch)

    def close(self) -> None:
        """Wait until everything is delivered; raises what the receiver raised."""
        self._queue.put(None)
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self, make_receiver: Callable[[], Callable[[list[Metrics]], None]]) -> None:
        try:
            receive = make_receiver()
            while (batch := self._queue.get()) is not None:
                receive(batch)
        except Exception as error:
            self._error = error
