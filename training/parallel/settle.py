"""``auto`` becomes concrete, by the memory of the machines that a training runs on."""

import logging
import os
from itertools import accumulate
from pathlib import Path
from typing import Literal, cast

import torch
import torch.distributed as dist

from training.config import TrainPlan
from training.parallel.choose import choose
from training.parallel.config import ParallelConfig
from training.parallel.grid import workers_by_machine
from training.parallel.memory import estimate

logger = logging.getLogger(__name__)

_MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")


def settled(
    plan: TrainPlan, parallel: ParallelConfig, *, num_workers: int, device: torch.device
) -> ParallelConfig:
    """``parallel`` without ``auto``, the same on every rank; every rank must call this.

    By what memory there is, and not by what is free at the moment: a run that is started again on
    the same machines must be spread the same way, or its last bits would be others.

    Raises:
        ValueError: Nothing fits; says what to change.
    """
    room = torch.tensor(_bytes_per_worker(device), dtype=torch.int64, device=device)
    if dist.is_initialized():
        dist.all_reduce(room, op=dist.ReduceOp.MIN)
    kind = cast("Literal['cpu', 'cuda']", device.type)
    chosen = choose(plan, parallel, num_workers, int(room), device_type=kind)
    if not dist.is_initialized() or dist.get_rank() == 0:
        logger.info(
            "strategy %s, activation checkpointing %s: %s",
            *(chosen.strategy, chosen.activation_checkpointing),
            _described(plan, chosen, num_workers, kind),
        )
    return chosen


def _described(
    plan: TrainPlan, chosen: ParallelConfig, num_workers: int, kind: Literal["cpu", "cuda"]
) -> str:
    try:
        return estimate(plan.model, plan, chosen, num_workers, kind).describe()
    except ValueError as error:
        # Who has settled everything is not held up by what cannot be estimated.
        return str(error)


def _bytes_per_worker(device: torch.device) -> int:
    """Memory of a GPU, or a worker's even share of its machine's."""
    machines = workers_by_machine(device)
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _MEMORY_LIMIT.read_text().strip() if _MEMORY_LIMIT.exists() else "max"
    if limit != "max":
        whole = min(whole, int(limit))
    rank = dist.get_rank() if dist.is_initialized() else 0
    ends = zip(accumulate(machines), machines, strict=True)
    return whole // next(workers for end, workers in ends if rank < end)
