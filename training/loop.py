"""The training loop: one optimizer step, and the loop around it.

Knows nothing of stores, snapshots or Ray. Every rank must call both functions, with its own part of
the same global batches.
"""

import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from training.config import TrainPlan
from training.data.batches import RankBatch
from training.loss import count_by_stream, targets_of
from training.parallel.clip import clip_gradients
from training.parallel.exchange import gradients_exchanged
from training.schedule import lr_at

logger = logging.getLogger(__name__)

_SAMPLES_NAMED = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What one step did, the same on every rank."""

    step: int
    """Steps taken, this one included."""
    lr: float
    nats_by_stream: tuple[float, ...]
    """Summed over the global batch; not finite when that is why nothing was learned, and 0 when the
    batch was passed over unseen."""
    targets_by_stream: tuple[int, ...]
    """Valid targets of the global batch."""
    grad_norm: float
    """Before clipping."""
    checksum: int
    """Of the samples of the global batch, see ``RankBatch``."""
    wait_seconds: float
    """This rank's wait for data."""
    step_seconds: float
    """Wall time of the step, the wait included."""
    is_skipped: bool
    """The batch was passed over unseen."""
    is_learned: bool
    """The optimizer changed the weights; if not, they and its moments are what they were."""
    is_last_of_life: bool
    """A rank was asked to stop: all of them stop after this step."""

    @property
    def nats_per_token(self) -> float:
        """Mean over all valid targets of the global batch; 0 of one that was all taken down."""
        return sum(self.nats_by_stream) / max(1, sum(self.targets_by_stream))


class _StepOutcome(NamedTuple):
    """The same on every rank."""

    nats_by_stream: Tensor
    """``float64[S]``"""
    targets_by_stream: Tensor
    """``int64[S]``"""
    grad_norm: float
    checksum: int
    is_learned: bool
    is_asked_to_stop: bool


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[RankBatch],
    plan: TrainPlan,
    on_step: Callable[[StepResult], None],
    *,
    is_skipped: Callable[[int], bool] = lambda _: False,
    before_update: Callable[[], None] = lambda: None,
    is_asked_to_stop: Callable[[], bool] = lambda: False,
    tensor_parallel: int = 1,
) -> None:
    """Take one step for each of ``batches``; ``on_step`` hears of it when its weights are in place.

    Args:
        model: A ``StreamLoss``, wrapped for data parallelism, its model spread, or neither.
        optimizer: Over its parameters.
        batches: This rank's part of consecutive global batches.
        plan: Schedule, precision, clip.
        on_step: Guard, journal, checkpoints.
        is_skipped: Whether the batch of a step (0-based) is passed over; the same on every rank.
        before_update: Called in every step when the gradients are there and no weight has changed.
        is_asked_to_stop: Looked at before every step, on every rank; true on any ends all after it.
        tensor_parallel: Ranks that have the same samples, as they compute every product together.
    """
    started = time.perf_counter()
    for batch in batches:
        lr = lr_at((batch.step + 1) * plan.global_batch_tokens, plan.schedule)
        passes_over = is_skipped(batch.step)
        outcome = train_step(
            model,
            optimizer,
            batch,
            plan,
            lr=lr,
            passes_over=passes_over,
            before_update=before_update,
            asks_to_stop=is_asked_to_stop(),
            tensor_parallel=tensor_parallel,
        )
        now = time.perf_counter()
        on_step(
            StepResult(
                step=batch.step + 1,
                lr=lr,
                nats_by_stream=tuple(outcome.nats_by_stream.tolist()),
                targets_by_stream=tuple(outcome.targets_by_stream.tolist()),
                grad_norm=outcome.grad_norm,
                checksum=outcome.checksum,
                wait_seconds=batch.wait_seconds,
                step_seconds=now - started,
                is_skipped=passes_over,
                is_learned=outcome.is_learned,
                is_last_of_life=outcome.is_asked_to_stop,
            )
        )
        if outcome.is_asked_to_stop:
            return
        started = time.perf_counter()


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: RankBatch,
    plan: TrainPlan,
    *,
    lr: float,
    passes_over: bool = False,
    before_update: Callable[[], None] = lambda: None,
    asks_to_stop: bool = False,
    tensor_parallel: int = 1,
) -> _StepOutcome:
    """One optimizer step, or none when loss or gradients are not finite on any rank.

    Loss and gradients are means over every valid target of the *global* batch, so the result is the
    same however the batch is cut into micro batches and ranks.
    """
    micro_batches = _micro_batches(batch, plan, next(model.parameters()).device)
    targets_by_stream, checksum, stops = _agreed(micro_batches, batch, plan, asks_to_stop)
    # Every sample was counted by all that share its products.
    targets_by_stream //= tensor_parallel
    checksum //= tensor_parallel
    if passes_over:
        nats_by_stream = torch.zeros(len(targets_by_stream), dtype=torch.float64)
        return _StepOutcome(nats_by_stream, targets_by_stream, 0.0, checksum, False, stops)
    # Data parallelism averages gradients over ranks; we want their sum over all valid targets.
    num_parts = (dist.get_world_size() if dist.is_initialized() else 1) // tensor_parallel
    scale = num_parts / max(1, int(targets_by_stream.sum()))
    nats_by_stream = _backward(model, micro_batches, plan, scale)
    if not nats_by_stream.isfinite().all():
        logger.warning("the loss of step %d is not finite: %s", batch.step + 1, _named(batch, plan))
    nats_by_stream = _summed(nats_by_stream) / tensor_parallel
    grad_norm = clip_gradients(model.parameters(), plan.optimizer.max_grad_norm)
    is_finite = bool(nats_by_stream.isfinite().all()) and math.isfinite(grad_norm)
    if is_finite:
        for group in optimizer.param_groups:
            group["lr"] = lr
        before_update()
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return _StepOutcome(nats_by_stream, targets_by_stream, grad_norm, checksum, is_finite, stops)


def _micro_batches(
    batch: RankBatch, plan: TrainPlan, device: torch.device
) -> list[tuple[Tensor, ...]]:
    """Tokens, targets and streams of each micro batch, on ``device``."""
    return [
        _on(device, tokens, targets_of(tokens, start_id=plan.start_id, end_id=plan.end_id), streams)
        for tokens, streams in zip(batch.tokens, batch.streams, strict=True)
    ]


def _agreed(
    micro_batches: Sequence[tuple[Tensor, ...]],
    batch: RankBatch,
    plan: TrainPlan,
    asks_to_stop: bool,
) -> tuple[Tensor, int, bool]:
    """Valid targets by stream, checksum and whether to stop, over all ranks.

    It needs no gradient: one message before the first forward pass.
    """
    num_streams = len(plan.mixture.streams)
    device = micro_batches[0][0].device
    header = torch.zeros(num_streams + 2, dtype=torch.int64, device=device)
    header[-2], header[-1] = batch.checksum, asks_to_stop
    for _, targets, streams in micro_batches:
        header[:-2] += count_by_stream(targets, streams, num_streams)
    header = _summed(header)
    return header[:-2], int(header[-2]), bool(header[-1])


def _backward(
    model: nn.Module, micro_batches: Sequence[tuple[Tensor, ...]], plan: TrainPlan, scale: float
) -> Tensor:
    """Gradients over all micro batches; this rank's nats by stream."""
    device = micro_batches[0][0].device
    nats_by_stream = torch.zeros(len(plan.mixture.streams), dtype=torch.float64, device=device)
    for index, (tokens, targets, streams) in enumerate(micro_batches):
        is_last = index == len(micro_batches) - 1
        with gradients_exchanged(model, is_last=is_last):
            with _precision(plan, device):
                nats, nats_of_streams = model(tokens[:, :-1], targets, streams)
            (nats * scale).backward()
        nats_by_stream += nats_of_streams
    return nats_by_stream


def _on(device: torch.device, *tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(tensor.to(device, non_blocking=True) for tensor in tensors)


def _summed(tensor: Tensor) -> Tensor:
    """Sum over all ranks, in place."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def _precision(plan: TrainPlan, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=plan.precision == "bf16")


def _named(batch: RankBatch, plan: TrainPlan) -> str:
    """This rank's samples, the first few."""
    names = [
        f"{plan.mixture.streams[stream].name}#{row}"
        for stream, row in batch.samples[:_SAMPLES_NAMED]
    ]
    more = len(batch.samples) - len(names)
    return f"{', '.join(names)}{f' and {more} more' if more else ''}"
