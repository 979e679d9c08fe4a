"""Which worker does what: copies of the model, shards of a copy, workers that share a matrix."""

import platform
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from training.parallel.config import ParallelConfig

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

REPLICA, SHARD, TENSOR = "replica", "shard", "tensor"
"""Dimensions of the mesh, from the outermost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """All workers as replicas x shards x tensor-parallel workers, the last counting fastest.

    So workers that exchange most have neighbouring ranks, which are on one machine.
    """

    replicas: int = 1
    """Copies of the model."""
    shards: int = 1
    """Pieces that weights, gradients and moments of a copy are cut into (FSDP2)."""
    tensor_parallel: int = 1
    """Workers that compute one product together, on the same samples."""

    @property
    def num_workers(self) -> int:
        """Of the whole training."""
        return self.data_parallel * self.tensor_parallel

    @property
    def data_parallel(self) -> int:
        """Parts that a global batch is shared out in."""
        return self.replicas * self.shards

    @property
    def is_spread(self) -> bool:
        """No worker holds the whole model."""
        return self.shards > 1 or self.tensor_parallel > 1

    def data_rank(self, rank: int) -> int:
        """Which part of a global batch is for worker ``rank``."""
        return rank // self.tensor_parallel


def grid_of(parallel: ParallelConfig, num_workers: int, machines: Callable[[], list[int]]) -> Grid:
    """Arrange ``num_workers``; what is still ``auto`` counts as ``ddp``.

    Args:
        parallel: What is wished.
        num_workers: In all.
        machines: How many workers each machine has, in the order of their ranks.

    Raises:
        ValueError: So many workers cannot be arranged that way.
    """
    across = parallel.tensor_parallel
    if num_workers % across:
        raise ValueError(
            f"the number of workers must be a multiple of tensor_parallel {across}, found "
            f"{num_workers}: change num_workers or tensor_parallel"
        )
    parts = num_workers // across
    if parallel.strategy == "fsdp":
        return Grid(shards=parts, tensor_parallel=across)
    if parallel.strategy != "hsdp":
        return Grid(replicas=parts, tensor_parallel=across)
    sharing = parallel.shard_workers or _workers_of_a_machine(machines())
    if num_workers % sharing or sharing % across:
        raise ValueError(
            f"hsdp keeps copies of the model on {sharing} workers each, so the number of workers "
            f"must be a multiple of that, and {sharing} one of tensor_parallel {across}, found "
            f"{num_workers} workers: change num_workers or shard_workers, or choose fsdp"
        )
    shards = sharing // across
    return Grid(replicas=parts // shards, shards=shards, tensor_parallel=across)


def _workers_of_a_machine(machines: list[int]) -> int:
    if len(set(machines)) != 1:
        raise ValueError(
            "hsdp without shard_workers keeps a copy of the model on every machine, so all must "
            f"have the same number of workers, found {', '.join(map(str, machines))}: set "
            "shard_workers"
        )
    return machines[0]


def workers_by_machine(device: torch.device) -> list[int]:
    """How many workers each machine has, in the order of their ranks; every rank calls this."""
    name = torch.tensor([zlib.crc32(platform.node().encode())], dtype=torch.int64, device=device)
    if not dist.is_initialized():
        return [1]
    names = [torch.empty_like(name) for _ in range(dist.get_world_size())]
    dist.all_gather(names, name)
    return [len(list(group)) for _, group in groupby(int(found) for found in names)]


def mesh_of(grid: Grid, device: torch.device) -> "DeviceMesh":
    """Process groups of a grid; every rank must call this, once in its life."""
    # Half a second to import, which only a model in pieces needs.
    from torch.distributed.device_mesh import init_device_mesh  # noqa: PLC0415

    return init_device_mesh(
        device.type,
        (grid.replicas, grid.shards, grid.tensor_parallel),
        mesh_dim_names=(REPLICA, SHARD, TENSOR),
    )
