"""What one worker does, as a process of Ray or as the only process: build, resume, train, save."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from storage.errors import CorruptError
from storage.layout import Layout
from storage.objects import ObjectStore, open_store
from storage.snapshots import read_snapshot
from training.batches import Batches
from training.checkpoint import TrainState
from training.config import TrainPlan
from training.initial_state import state_of
from training.loop import train
from training.loss import StreamLoss
from training.model import Decoder
from training.order import Order
from training.recorder import Recorder
from training.shards import MdsReader, TrainShards


def never() -> bool:
    """Nobody asks this worker to stop."""
    return False


def run_worker(
    plan: TrainPlan,
    store_uri: str,
    *,
    work_dir: Path,
    rank: int = 0,
    world_size: int = 1,
    device: str = "cpu",
    num_threads: int | None = None,
    is_asked_to_stop: Callable[[], bool] = never,
) -> None:
    """Train ``plan`` to its end, from its newest checkpoint. Safe to retry; every rank calls this.

    Args:
        plan: What to train.
        store_uri: The object store.
        work_dir: Local folder for fetched shards and checkpoints under way.
        rank: This worker; with more than one, torch's process group exists already.
        world_size: Workers; must divide the plan's global batch.
        device: ``cpu`` or ``cuda:<n>``.
        num_threads: Of torch; None leaves them as they are.
        is_asked_to_stop: Looked at before every step; when it is true on any rank, that step is the
            last of this life, and a checkpoint follows it.

    Raises:
        TrainingDivergedError: The loss or a gradient is not finite.
        CorruptError: Training data or the initial weights are altered.
    """
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    store = open_store(store_uri)
    work_dir = work_dir / f"rank-{rank}"
    order = Order(plan.mixture, plan.global_batch_samples)
    batches = Batches(
        order,
        open_streams(store, plan, work_dir / "shards"),
        micro_batch_size=plan.micro_batch_size,
        rank=rank,
        world_size=world_size,
    )
    state = state_of(store, plan, torch.device(device), rank, work_dir)
    model: nn.Module = StreamLoss(
        _decoder_of(state), start_id=plan.start_id, num_streams=len(plan.mixture.streams)
    )
    if world_size > 1:
        model = _data_parallel(model, state.optimizer, plan)
    recorder = Recorder(store, plan, state, order, rank, world_size, work_dir)
    coming = batches.iterate(state.step, plan.num_steps)
    try:
        train(
            model,
            state.optimizer,
            coming,
            plan,
            recorder.on_step,
            before_update=recorder.before_update,
            is_asked_to_stop=is_asked_to_stop,
        )
    finally:
        coming.close()
        recorder.close()


def open_streams(store: ObjectStore, plan: TrainPlan, cache: Path) -> list[TrainShards]:
    """A reader for each stream of the plan's mixture, in their order."""
    layout = Layout(plan.lineage)
    manifests = {
        name: read_snapshot(store, layout, name)
        for name in sorted({stream.snapshot for stream in plan.mixture.streams})
    }
    opened: list[TrainShards] = []
    for stream in plan.mixture.streams:
        snapshot = layout.snapshot(stream.snapshot)
        folder = stream.prefix.removeprefix(f"{snapshot}/")
        files = manifests[stream.snapshot].files
        reader = MdsReader(store, snapshot, folder, files, cache / stream.snapshot)
        if len(reader) != stream.available:
            raise CorruptError(
                f"{stream.prefix} must hold the {stream.available} samples of the plan, found "
                f"{len(reader)}; plan the update again"
            )
        opened.append(TrainShards(reader, seq_len=plan.seq_len))
    return opened


def _decoder_of(state: TrainState) -> Decoder:
    assert isinstance(state.model, Decoder)
    return state.model


def _data_parallel(
    model: nn.Module, optimizer: torch.optim.Optimizer, plan: TrainPlan
) -> DistributedDataParallel:
    """Wrap the model, and let its gradient buckets settle.

    After its first backward pass DDP sorts its buckets anew, which can change the order in which
    three or more ranks are summed. Doing it before the first step of every life of a run keeps an
    interrupted run bit-identical to an undisturbed one.
    """
    wrapped = DistributedDataParallel(model)
    device = next(model.parameters()).device
    tokens = torch.full((1, plan.seq_len), plan.start_id, device=device)
    for _ in range(2):
        nats, _ = wrapped(tokens, tokens, torch.zeros(1, dtype=torch.int64, device=device))
        nats.backward()
        optimizer.zero_grad(set_to_none=True)
    return wrapped
