"""The memory estimate beside what training takes when workers share a model, over gloo.

``OMP_NUM_THREADS=1 python -m tests.benchmarks.bench_memory_spread``. ``measured`` is the most that
torch's allocator had handed out at once on rank 0, from before the model was built to the end of
the third step. It varies by some percent from run to run with the timing of the exchanges.
"""

# ruff: noqa: T201  a script for people

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tests.support.step_memory import allocated_at_most, batch_for, plan_for
from tests.training.tiny_run import free_port
from training.config import ModelConfig, TrainPlan
from training.decoder.model import Decoder
from training.loop import train_step
from training.loss import StreamLoss
from training.optim import build_optimizer
from training.parallel.config import ParallelConfig
from training.parallel.memory import estimate
from training.parallel.spread import spread_of

_MIB = 2**20
_LARGE_TABLE = ModelConfig(
    vocab_size=8192,
    hidden_size=256,
    num_layers=6,
    num_heads=4,
    num_kv_heads=4,
    intermediate_size=688,
)
_DEEP = replace(_LARGE_TABLE, vocab_size=2048, num_layers=8)
_DDP = ParallelConfig(strategy="ddp", activation_checkpointing="none")
_FSDP = replace(_DDP, strategy="fsdp")


@dataclass(frozen=True)
class Case:
    """One way to share a model."""

    model: ModelConfig
    parallel: ParallelConfig
    workers: int
    rows: int
    seq_len: int
    micro_batches: int = 1
    precision: Literal["bf16", "fp32"] = "bf16"

    @property
    def plan(self) -> TrainPlan:
        """What each worker trains."""
        return plan_for(
            self.model,
            rows=self.rows,
            seq_len=self.seq_len,
            micro_batches=self.micro_batches,
            precision=self.precision,
            num_workers=self.workers // self.parallel.tensor_parallel,
        )


def _cases() -> Iterator[Case]:
    yield Case(_LARGE_TABLE, _DDP, 2, 4, 256)
    yield Case(_LARGE_TABLE, _FSDP, 2, 4, 256)
    yield Case(_DEEP, replace(_FSDP, activation_checkpointing="full"), 2, 4, 512)
    yield Case(_DEEP, _FSDP, 2, 1, 64)
    yield Case(_DEEP, _FSDP, 2, 1, 64, precision="fp32")
    yield Case(_DEEP, _FSDP, 4, 1, 64, 2)
    yield Case(replace(_LARGE_TABLE, tie_embeddings=False), _FSDP, 2, 2, 128, 2)
    yield Case(_DEEP, replace(_DDP, strategy="hsdp", shard_workers=2), 4, 4, 256)
    yield Case(_LARGE_TABLE, replace(_DDP, tensor_parallel=2), 2, 4, 256)
    selective = replace(_DDP, tensor_parallel=2, activation_checkpointing="selective")
    yield Case(_DEEP, selective, 2, 4, 256, precision="fp32")
    yield Case(_DEEP, replace(_FSDP, tensor_parallel=2), 4, 4, 256)


def main() -> None:
    """Measure and print."""
    print("| strategy | tensor parallel | again | workers | rows x tokens | micro batches ", end="")
    print("| precision | estimate | measured | ratio |\n|---|---|---|---|---|---|---|---|---|---|")
    for case in _cases():
        arguments: tuple[Any, ...] = (free_port(), case)
        mp.start_processes(  # type: ignore[no-untyped-call]
            _measure, arguments, nprocs=case.workers, start_method="fork"
        )


def _measure(rank: int, port: int, case: Case) -> None:
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=case.workers)
    torch.set_num_threads(1)
    measured = allocated_at_most(lambda: _train(case))
    if rank == 0:
        expected = estimate(case.model, case.plan, case.parallel, case.workers, "cpu").tensors
        cells = (
            *(case.parallel.strategy, case.parallel.tensor_parallel),
            *(case.parallel.activation_checkpointing, case.workers),
            *(f"{case.rows} x {case.seq_len}", case.micro_batches, case.precision),
            *(f"{expected / _MIB:.1f}", f"{measured / _MIB:.1f}", f"{expected / measured:.3f}"),
        )
        print(f"| {' | '.join(map(str, cells))} |", flush=True)
    dist.destroy_process_group()


def _train(case: Case) -> None:
    """Three steps, as a worker takes them."""
    device = torch.device("cpu")
    plan, across = case.plan, case.parallel.tensor_parallel
    spread = spread_of(plan, case.parallel, num_workers=case.workers, device=device)
    with torch.device("meta"):
        decoder = Decoder(case.model)
    spread.apply(decoder)
    decoder.materialise(device, seed=0)
    optimizer = build_optimizer(decoder, plan.optimizer)
    model: nn.Module = StreamLoss(decoder, start_id=0, num_streams=1)
    if not spread.grid.is_spread:
        model = DistributedDataParallel(model)
    batch = batch_for(plan, num_workers=case.workers // across)
    for _ in range(3):
        train_step(model, optimizer, batch, plan, lr=1e-3, tensor_parallel=across)


if __name__ == "__main__":
    main()
