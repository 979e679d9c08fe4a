"""Train one update and wait; returns its final checkpoint."""

import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

from infra.bounds import Bounds
from infra.credentials import first_line_of
from infra.progress import Progress
from training.checkpoint.index import CheckpointConfig
from training.config import FORBID_UNKNOWN, TrainPlan
from training.parallel.config import ParallelConfig
from training.speed import Speed

logger = logging.getLogger(__name__)

Metrics = dict[str, Any]
"""One step's metrics by name, as ``training.metrics`` writes them."""

_LONGEST_PAUSE_SECONDS = 240.0


@dataclass(frozen=True, slots=True)
class WorkerCount:
    """A number of workers, or the fewest and the most of them; hooks of pydantic, as ``Bounds``."""

    def check(self, value: Any) -> int | tuple[int, int]:
        """Return ``value``, or raise ValueError with what is allowed."""
        if type(value) is int and value >= 0:
            return value
        if isinstance(value, list | tuple):
            ends = tuple(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
            if len(ends) == 2 and all(type(end) is int for end in ends) and 1 <= ends[0] <= ends[1]:  # pyright: ignore[reportUnknownArgumentType]
                return ends  # pyright: ignore[reportUnknownVariableType]
        raise ValueError(
            "must be a whole number of at least 0, or the fewest and the most workers, as in "
            f"[1, 4], got {value!r}"
        )

    def __get_pydantic_core_schema__(self, _source: Any, _handler: Any) -> Any:
        """Hook of pydantic: one sentence instead of one for each type."""
        from pydantic_core import core_schema  # noqa: PLC0415  the only place that needs it

        return core_schema.no_info_plain_validator_function(self.check)

    def __get_pydantic_json_schema__(self, _schema: Any, _handler: Any) -> Any:
        """Hook of pydantic: for forms and the reference."""
        pair = {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2}
        return {"anyOf": [{"type": "integer", "minimum": 0}, pair], "unit": "workers"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ComputeConfig:
    """Where and how wide training runs. Never part of an identity."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN

    num_workers: Annotated[int | tuple[int, int], WorkerCount()] = 1
    """Ray workers, or the fewest and the most, as in [1, 4]: the training takes the largest number
    that has room and divides recipe.global_batch_samples, goes on with fewer when a machine is
    lost, and takes more in when there is room. 0 trains in the flow's own process, without Ray."""
    use_gpu: bool = False
    """One GPU a worker."""
    threads_per_worker: Annotated[int | None, Bounds(gt=0)] = None
    """CPU threads of each worker; all cores shared evenly if not set."""
    max_failures: Annotated[int, Bounds(ge=0)] = 3
    """Losses of workers, or of Ray's head, before the training is given up; each time it starts
    again from the newest checkpoint."""
    wait_seconds: Annotated[float, Bounds(ge=0, unit="seconds")] = 3600.0
    """How long to wait for machines, at the start and after one, or Ray's head, was lost; then the
    training is given up. Another run goes on from the newest checkpoint, also on fewer workers."""
    silence_seconds: Annotated[float, Bounds(gt=0, unit="seconds")] = 900.0
    """How long a worker may wait for another before it counts as lost. Must exceed the time in
    which one worker stores a checkpoint."""
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    checkpoints: CheckpointConfig = field(default_factory=CheckpointConfig)


def train(
    plan: TrainPlan,
    *,
    store_uri: str,
    compute: ComputeConfig,
    work_dir: Path,
    ray_address: str = "",
    on_metrics: Callable[[list[Metrics]], None] | None = None,
    is_asked_to_stop: Callable[[], bool] = lambda: False,
) -> str:
    """Train ``plan`` to its end; returns the prefix of its final checkpoint.

    Safe to retry: training goes on from the newest committed checkpoint, and a finished one is
    returned at once.

    Raises:
        TrainingStoppedError: ``is_asked_to_stop`` has become true; a checkpoint was saved.
    """
    # Not at the top: torch and Ray take seconds to import, and who merely schedules needs neither.
    from training.launch import run_training  # noqa: PLC0415

    total_tokens = plan.num_steps * plan.global_batch_tokens
    speed = Speed(plan.global_batch_tokens)
    with Progress("train", total_tokens, "tokens") as progress:

        def follow(batch: list[Metrics]) -> None:
            if batch:
                speed.add(batch)
                progress.update(speed.tokens, speed.note, rate=speed.tokens_per_second)
            if on_metrics is not None:
                on_metrics(batch)

        return run_training(
            plan,
            store_uri=store_uri,
            num_workers=compute.num_workers,
            threads_per_worker=compute.threads_per_worker,
            use_gpu=compute.use_gpu,
            max_failures=compute.max_failures,
            wait_seconds=compute.wait_seconds,
            silence_seconds=compute.silence_seconds,
            parallel=compute.parallel,
            checkpoints=compute.checkpoints,
            work_dir=work_dir,
            ray_address=ray_address or None,
            on_metrics=follow,
            is_asked_to_stop=is_asked_to_stop,
        )


class MetricRelay:
    """Hands metrics to a slow receiver that may be away, on a thread of its own.

    ``make_receiver`` runs on that thread: it may import MLflow, which takes seconds, and it hands
    over what an earlier receiver, of this or of another process, did not get: the metrics lie in
    the store. So what a failed receiver was given is dropped here, and a new one is made after a
    pause that grows. Training never waits for any of it.

    Args:
        make_receiver: Returns what batches are given to; a step may be in two batches.
        first_pause_seconds: Before the second attempt.
    """

    def __init__(
        self,
        make_receiver: Callable[[], Callable[[list[Metrics]], None]],
        *,
        first_pause_seconds: float = 15.0,
    ) -> None:
        self._make_receiver = make_receiver
        self._pause_seconds = first_pause_seconds
        self._queue: queue.Queue[list[Metrics] | None] = queue.Queue()
        self._closing = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="metric-relay", daemon=True)
        self._thread.start()

    def __call__(self, batch: list[Metrics]) -> None:
        """Queue a batch; returns at once."""
        self._queue.put(batch)

    def close(self, *, wait_seconds: float = 30.0) -> None:
        """Wait until everything is delivered, but not longer than ``wait_seconds``.

        Raises:
            TimeoutError: The receiver is too slow.
            Exception: What the receiver raised when it was tried last.
        """
        self._closing.set()
        self._queue.put(None)
        self._thread.join(wait_seconds)
        if self._error is not None:
            raise self._error
        if self._thread.is_alive():
            raise TimeoutError(f"not everything was taken within {wait_seconds:g} s")

    def _run(self) -> None:
        while True:
            try:
                receive = self._make_receiver()
                self._error = None
                while (batch := self._next_batch()) is not None:
                    receive(batch)
            except Exception as error:
                if self._error is None:
                    logger.warning(f"no curves for now, training goes on: {first_line_of(error)}")
                self._error = error
                if self._closing.wait(self._pause_seconds):
                    return
                self._pause_seconds = min(2 * self._pause_seconds, _LONGEST_PAUSE_SECONDS)
                self._drop_queue()
            else:
                return

    def _next_batch(self) -> list[Metrics] | None:
        """All that waits as one batch, so that a slow receiver catches up; None at the end."""
        batch = self._queue.get()
        while batch is not None and not self._queue.empty():
            more = self._queue.get()
            if more is None:
                self._queue.put(None)
                break
            batch = [*batch, *more]
        return batch

    def _drop_queue(self) -> None:
        while not self._queue.empty():
            if self._queue.get() is None:
                self._queue.put(None)
                return
