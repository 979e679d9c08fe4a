"""What rank 0 writes down after every step: a row of metrics, and checkpoints when they are due."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from storage.layout import Layout
from storage.objects import ObjectStore
from training import metrics
from training.checkpoint import TrainState, save
from training.checkpoint_index import discard_old
from training.config import TrainPlan
from training.loop import StepResult
from training.model import flops_per_token
from training.order import Order


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
    ) -> None:
        self._store, self._plan, self._state, self._order = store, plan, state, order
        self._is_first, self._work_dir = rank == 0, work_dir
        if self._is_first:
            self._journal = metrics.MetricJournal(store, Layout(plan.lineage).metrics(plan.update))
            self._describe = _describer(plan, state, world_size)

    def before_update(self) -> None:
        """Called when the gradients are there and no weight has changed yet."""

    def on_step(self, result: StepResult) -> None:
        """Called after every step, when its weights are in place."""
        self._state.step = result.step
        if not self._is_first:
            return
        self._journal.append(self._describe(result))
        if not (self._is_due(result.step) or result.is_last_of_life):
            return
        # Before the checkpoint: a run that resumes from it never writes these rows again.
        self._journal.flush()
        names = [stream.name for stream in self._plan.mixture.streams]
        tokens = self._order.counts_before(result.step) * self._plan.seq_len
        seen = dict(zip(names, tokens.tolist(), strict=True))
        save(self._store, self._plan, self._state, seen, self._work_dir)
        discard_old(self._store, self._plan)

    def close(self) -> None:
        """Called at the end of this life, after an error too."""

    def _is_due(self, step: int) -> bool:
        is_named = step in (self._plan.num_steps, self._plan.trunk_step)
        return is_named or step % self._plan.checkpoint_every_steps == 0


def _describer(
    plan: TrainPlan, state: TrainState, world_size: int
) -> Callable[[StepResult], dict[str, Any]]:
    """A function from a step to its row of metrics."""
    started = time.monotonic()
    device = next(state.model.parameters()).device
    dtype = torch.bfloat16 if plan.precision == "bf16" else torch.float32
    peak = measured_flops_per_second(device, dtype) * world_size
    flops = flops_per_token(plan.model, plan.seq_len)
    domains = [stream.domain for stream in plan.mixture.streams]

    def describe(result: StepResult) -> dict[str, Any]:
        tokens_per_second = plan.global_batch_tokens / result.step_seconds
        return {
            metrics.STEP: result.step,
            metrics.TIME: time.time(),
            metrics.ELAPSED_SECONDS: time.monotonic() - started,
            metrics.TOKENS_SEEN: result.step * plan.global_batch_tokens,
            metrics.LOSS: result.nats_per_token,
            **_loss_by_domain(domains, result.nats_by_stream, result.targets_by_stream),
            metrics.LR: result.lr,
            metrics.GRAD_NORM: result.grad_norm,
            metrics.TOKENS_PER_SECOND: tokens_per_second,
            metrics.MFU: tokens_per_second * flops / peak,
            metrics.DATA_WAIT_FRACTION: result.wait_seconds / result.step_seconds,
            metrics.CHECKSUM: result.checksum,
        }

    return describe


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
