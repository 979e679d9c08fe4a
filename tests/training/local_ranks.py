"""Several ranks of a run as processes of this machine, without Ray."""

import contextlib
import importlib
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tests.training.tiny_run import free_port
from training.config import TrainPlan
from training.loop import lr_at
from training.parallel.config import ParallelConfig
from training.worker import run_worker

# Here, or every rank that is forked would do it.
for _name in ("torch.distributed.fsdp", "torch.distributed.tensor"):
    importlib.import_module(_name)


class Stopped(BaseException):
    """What ends a life of a run."""


def run_ranks(
    plan: TrainPlan,
    uri: str,
    work_dir: Path,
    *,
    world_size: int,
    stop_at: int | None = None,
    parallel: ParallelConfig | None = None,
) -> None:
    """One life of a run on ``world_size`` ranks; with ``stop_at`` it ends within that step."""
    arguments = (world_size, free_port(), plan, uri, work_dir, stop_at, parallel)
    mp.start_processes(_live, arguments, nprocs=world_size, start_method="fork")  # type: ignore[no-untyped-call]


def on_ranks(world_size: int, check: Callable[..., None], *arguments: object) -> None:
    """Run ``check(rank, *arguments)`` on every rank; raises what any of them raises."""
    everything = (world_size, free_port(), check, arguments)
    mp.start_processes(_check, everything, nprocs=world_size, start_method="fork")  # type: ignore[no-untyped-call]


def _check(
    rank: int, world_size: int, port: int, check: Callable[..., None], arguments: tuple[object, ...]
) -> None:
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=world_size)
    check(rank, *arguments)
    dist.destroy_process_group()


def _live(
    rank: int,
    world_size: int,
    port: int,
    plan: TrainPlan,
    uri: str,
    work_dir: Path,
    stop_at: int | None,
    parallel: ParallelConfig | None,
) -> None:
    def lr_or_stop(tokens_seen: int, schedule: object) -> float:
        if stop_at is not None and tokens_seen == stop_at * plan.global_batch_tokens:
            raise Stopped
        return lr_at(tokens_seen, plan.schedule)

    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=world_size)
    with mock.patch("training.loop.lr_at", lr_or_stop), contextlib.suppress(Stopped):
        run_worker(
            plan,
            uri,
            work_dir=work_dir,
            rank=rank,
            world_size=world_size,
            num_threads=1,
            parallel=parallel,
        )
    dist.destroy_process_group()
