"""What rank 0 writes down after every step: a row of metrics, and checkpoints when they are due."""

import contextlib
import logging
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch

from storage.absence import RETRY_SECONDS, is_store_away
from storage.errors import StorageError
from storage.layout import Layout
from storage.objects import ObjectStore
from training import metrics
from training.causal_model import CausalModel
from training.checkpoint.index import CheckpointConfig
from training.checkpoint.run_life import Life
from training.checkpoint.saver import CheckpointSaver, give_pieces
from training.checkpoint.state import TrainState
from training.config import TrainPlan
from training.data.order import Order
from training.goodput import LifeBegun, LifeOver, record_begin, record_end
from training.guard.skips import learned_by_stream
from training.loop import StepResult

logger = logging.getLogger(__name__)


class Recorder:
    """Follows the steps of one rank; only rank 0 writes.

    Args:
        store: Where journal and checkpoints go.
        plan: What is trained.
        state: What training changes; its step is kept current.
        order: Of the samples.
        rank: This worker.
        world_size: Workers.
        work_dir: Local folder for checkpoints under way.
        life: Of the run, on rank 0; None asks nobody whether the checkpoints are still wanted.
        begun: How that life began, on rank 0; put on record behind the training.
        checkpoints: How they are stored.
    """

    def __init__(
        self,
        store: ObjectStore,
        plan: TrainPlan,
        state: TrainState,
        order: Order,
        rank: int,
        world_size: int,
        work_dir: Path,
        *,
        life: Life | None = None,
        begun: LifeBegun | None = None,
        checkpoints: CheckpointConfig | None = None,
    ) -> None:
        self._plan, self._state, self._order = plan, state, order
        self._store, self._layout, self._begun = store, Layout(plan.lineage), begun
        self._is_first, self._is_complete = rank == 0, False
        self._save_seconds = 0.0
        if self._is_first:
            self._journal = _BackgroundJournal(store, self._layout.metrics(plan.update))
            self._describe = _describer(plan, state, world_size)
            if life is not None and begun is not None:
                self._journal.note(lambda: record_begin(store, self._layout, plan.update, begun))
            self._saver = CheckpointSaver(
                store,
                plan,
                work_dir,
                life=life,
                config=checkpoints,
                # A run that resumes from a checkpoint never writes the rows before it again.
                before_commit=lambda _: self._journal.flush(),
                unstored_rows=self._journal.unstored,
            )

    def before_update(self) -> None:
        """Called when the gradients are there and no weight has changed yet."""
        if self._is_first:
            with self._save_timed():
                self._saver.wait_until_copied()

    def on_step(self, result: StepResult, guarded: Mapping[str, float]) -> None:
        """Called after every step, when its weights are in place and judged; ``guarded``: how."""
        self._state.step = result.step
        self._is_complete = result.is_last_of_life or result.step == self._plan.num_steps
        is_saved = self._plan.saves_at(result.step) or result.is_last_of_life
        if not self._is_first:
            if is_saved:
                give_pieces(self._state)
            return
        life = {metrics.LIFE: self._begun.number if self._begun else 0}
        waited = {metrics.SAVE_SECONDS: self._save_seconds}
        self._save_seconds = 0.0
        self._journal.append({**self._describe(result), **guarded, **life, **waited})
        if not is_saved:
            return
        with self._save_timed():
            names = [stream.name for stream in self._plan.mixture.streams]
            samples = learned_by_stream(self._order, self._state.skips, result.step)
            tokens = samples * self._plan.seq_len
            self._saver.start(self._state, dict(zip(names, tokens.tolist(), strict=True)))

    def close(self) -> None:
        """Called at the end of this life, after an error too: what is being saved is finished."""
        if not self._is_first:
            return
        try:
            self._saver.close(is_complete=self._is_complete)
            if (begun := self._begun) is not None:
                end = LifeOver(number=begun.number, ended_at=time.time())
                self._journal.note(
                    lambda: record_end(self._store, self._layout, self._plan.update, end)
                )
        finally:
            self._journal.close()

    @contextlib.contextmanager
    def _save_timed(self) -> Generator[None]:
        """What the body takes, the training waits for a checkpoint."""
        started = time.perf_counter()
        yield
        self._save_seconds += time.perf_counter() - started


class _BackgroundJournal:
    """A journal whose flushes nobody waits for; a store that is away only delays it."""

    def __init__(self, store: ObjectStore, prefix: str) -> None:
        self._journal = metrics.MetricJournal(store, prefix)
        self._thread = ThreadPoolExecutor(1, "metrics")
        self._last: Future[None] | None = None
        self._held: list[dict[str, Any]] = []
        self._try_at = 0.0

    def append(self, row: dict[str, Any]) -> None:
        """Add the row of one step. Raises what an earlier row failed with."""
        if self._last is not None and self._last.done():
            self._last.result()
        self._held.append(row)
        self._last = self._thread.submit(self._pass_on_if_there)

    def unstored(self, step: int) -> list[dict[str, Any]]:
        """Rows up to ``step`` that the store may not have, some perhaps twice; waits for nothing.

        May be called from any thread.
        """
        # In this order: a row that moves from one to the other meanwhile is in both.
        rows = [*list(self._held), *self._journal.unstored]
        return [row for row in rows if row[metrics.STEP] <= step]

    def flush(self) -> None:
        """Return when every row is durable. Raises what the store raises."""
        self._thread.submit(self._flush).result()

    def note(self, write: Callable[[], None]) -> None:
        """Have ``write`` put a small object; left out when the store is away."""
        self._thread.submit(self._write_if_there, write)

    def close(self) -> None:
        """Store what is left, unless the store is away."""
        self._thread.submit(self._flush_if_there)
        self._thread.shutdown()

    def _pass_on_if_there(self) -> None:
        if time.monotonic() < self._try_at:
            return
        try:
            self._pass_on()
        except (StorageError, OSError) as error:
            if not is_store_away(error):
                raise
            logger.warning("the metrics of the last steps wait for the store: %s", error)
            self._try_at = time.monotonic() + RETRY_SECONDS

    def _pass_on(self) -> None:
        while self._held:
            try:
                self._journal.append(self._held[0])
            finally:
                # The journal has it, also when it could not store it.
                self._held.pop(0)

    def _flush(self) -> None:
        self._pass_on()
        self._journal.flush()

    def _flush_if_there(self) -> None:
        if time.monotonic() >= self._try_at:
            self._flush()

    def _write_if_there(self, write: Callable[[], None]) -> None:
        if time.monotonic() < self._try_at:
            return
        try:
            write()
        except (StorageError, OSError) as error:
            logger.warning("the account of this run's time will lack a part: %s", error)


def _describer(
    plan: TrainPlan, state: TrainState, world_size: int
) -> Callable[[StepResult], dict[str, Any]]:
    """A function from a step to its row of metrics."""
    started = time.monotonic()
    device = next(state.model.parameters()).device
    dtype = torch.bfloat16 if plan.precision == "bf16" else torch.float32

    @cache
    def peak() -> float:
        # Not before the first step, which a run that was killed should take soon.
        return measured_flops_per_second(device, dtype) * world_size

    flops = cast("CausalModel", state.model).flops_per_token(plan.seq_len)
    domains = [stream.domain for stream in plan.mixture.streams]

    def describe(result: StepResult) -> dict[str, Any]:
        tokens_per_second = plan.global_batch_tokens / result.step_seconds
        num_learned = result.step - len(state.skips.steps_before(result.step))
        return {
            metrics.STEP: result.step,
            metrics.TIME: time.time(),
            metrics.ELAPSED_SECONDS: time.monotonic() - started,
            metrics.TOKENS_SEEN: num_learned * plan.global_batch_tokens,
            **(_learned(domains, result) if result.is_learned else {}),
            metrics.LR: result.lr,
            metrics.TOKENS_PER_SECOND: tokens_per_second,
            metrics.STEP_SECONDS: result.step_seconds,
            metrics.MFU: tokens_per_second * flops / peak(),
            metrics.DATA_WAIT_FRACTION: result.wait_seconds / result.step_seconds,
            metrics.CHECKSUM: result.checksum,
        }

    return describe


def _learned(domains: Iterable[str], result: StepResult) -> dict[str, float]:
    """What only a step has that the optimizer took."""
    return {
        metrics.LOSS: result.nats_per_token,
        **_loss_by_domain(domains, result.nats_by_stream, result.targets_by_stream),
        metrics.GRAD_NORM: result.grad_norm,
    }


def _loss_by_domain(
    domains: Iterable[str], nats: Iterable[float], targets: Iterable[int]
) -> dict[str, float]:
    """``train/loss/<domain>`` of every domain that had a valid target in this step."""
    sums: dict[str, tuple[float, int]] = {}
    for domain, nats_of_stream, count in zip(domains, nats, targets, strict=True):
        so_far = sums.get(domain, (0.0, 0))
        sums[domain] = (so_far[0] + nats_of_stream, so_far[1] + count)
    return {
        f"{metrics.LOSS}/{domain}": total / count
        for domain, (total, count) in sums.items()
        if count
    }


def measured_flops_per_second(device: torch.device, dtype: torch.dtype) -> float:
    """What a square matrix product reaches on this machine, best of a few; takes some 0.1 s."""
    size = 4096 if device.type == "cuda" else 768
    left = torch.ones(size, size, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(4):
        started = time.perf_counter()
        # Reading one number back waits for the device.
        float((left @ left)[0, 0])
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best
