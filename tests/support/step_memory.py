"""Memory of a training step as torch's allocator counts it, for tests and benchmarks."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from tests.benchmarks.workload import make_plan
from training.config import ForeignConfig, ModelConfig, TrainPlan
from training.data.batches import RankBatch
from training.decoder.sharding import local_of
from training.loop import train_step


def plan_for(
    model: ModelConfig | ForeignConfig,
    *,
    rows: int,
    seq_len: int,
    micro_batches: int = 1,
    precision: Literal["bf16", "fp32"] = "bf16",
    num_workers: int = 1,
) -> TrainPlan:
    """A plan whose every worker has so many micro batches of so many rows."""
    return replace(
        make_plan("made", 1, num_steps=1),
        model=model,
        seq_len=seq_len,
        micro_batch_size=rows,
        global_batch_samples=rows * micro_batches * num_workers,
        precision=precision,
    )


def batch_for(plan: TrainPlan, *, num_workers: int = 1) -> RankBatch:
    """One worker's part of a global batch, random tokens."""
    rows = plan.micro_batch_size
    count = plan.grad_accum_steps(num_workers)
    shape = (count, rows, plan.seq_len + 1)
    tokens = torch.randint(1, plan.model.vocab_size, shape, generator=torch.Generator())
    return RankBatch(
        step=0,
        tokens=tuple(tokens),
        streams=(torch.zeros(rows, dtype=torch.int64),) * count,
        samples=(),
        checksum=0,
        wait_seconds=0.0,
    )


def step_bytes(
    model: nn.Module, optimizer: torch.optim.Optimizer, batch: RankBatch, plan: TrainPlan
) -> int:
    """Most bytes of tensors at once in the second step, weights and moments included.

    Memory that kernels take beside the allocator, for packed matrices say, is not seen.
    """

    def step() -> None:
        train_step(model, optimizer, batch, plan, lr=1e-3)

    step()  # which makes the moments
    weights: list[Tensor] = [local_of(parameter) for parameter in model.parameters()]
    moments: list[Tensor] = [
        local_of(t) for state in optimizer.state.values() for t in state.values()
    ]
    return sum(t.nbytes for t in (*weights, *moments)) + allocated_at_most(step)


def allocated_at_most(work: Callable[[], None]) -> int:
    """Most bytes that ``work`` has of torch's allocator for processors at once."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    assert profiled.profiler is not None
    results = profiled.profiler.kineto_results
    assert results is not None
    events = [event for event in results.events() if event.name() == "[memory]"]
    in_use = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        in_use += event.nbytes()  # pyright: ignore[reportAttributeAccessIssue]  not in torch's stubs
        most = max(most, in_use)
    return most
