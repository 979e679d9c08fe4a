"""What one worker does, as a process of Ray or as the only process: build, resume, train, save."""

import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from storage.errors import CorruptError, NotFoundError
from storage.layout import Layout
from storage.models import fetch_model, is_published
from storage.objects import ObjectStore, open_store
from storage.snapshots import read_snapshot
from training import metrics
from training.batches import Batches
from training.checkpoint import TrainState, restore_weights, resume, save, start_from
from training.checkpoint_index import discard_old, latest, step_prefix
from training.config import ModelConfig, TrainPlan
from training.hub import read_model
from training.loop import StepResult, train
from training.loss import StreamLoss
from training.model import Decoder, flops_per_token
from training.optim import build_optimizer
from training.order import Order
from training.shards import MdsReader, TrainShards

logger = logging.getLogger(__name__)

_COMPUTED_FIELDS = (
    "num_heads",
    "num_kv_heads",
    "head_width",
    "rope_theta",
    "rms_norm_eps",
    "tie_embeddings",
)
"""What the shapes of the weights do not show."""


def run_worker(
    plan: TrainPlan,
    store_uri: str,
    *,
    work_dir: Path,
    rank: int = 0,
    world_size: int = 1,
    device: str = "cpu",
    num_threads: int | None = None,
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
    state = _state_of(store, plan, torch.device(device), rank, work_dir)
    model: nn.Module = StreamLoss(
        _decoder_of(state), start_id=plan.start_id, num_streams=len(plan.mixture.streams)
    )
    if world_size > 1:
        model = _data_parallel(model, state.optimizer, plan)
    is_first = rank == 0
    on_step = _recorder(store, plan, state, order, world_size, work_dir) if is_first else _ignore
    coming = batches.iterate(state.step, plan.num_steps)
    try:
        train(model, state.optimizer, coming, plan, on_step)
    finally:
        coming.close()


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


def _state_of(
    store: ObjectStore, plan: TrainPlan, device: torch.device, rank: int, work_dir: Path
) -> TrainState:
    """Weights and moments to go on from: the newest checkpoint, else the plan's initial ones."""
    decoder = Decoder(plan.model, seed=plan.seed).to(device)
    state = TrainState(model=decoder, optimizer=build_optimizer(decoder, plan.optimizer))
    # One rank chooses, so that all agree even when a checkpoint is damaged meanwhile.
    newest = latest(store, plan.checkpoint_prefix) if rank == 0 else None
    step = torch.tensor(int(newest.rpartition("-")[2]) if newest else -1, device=device)
    if dist.is_initialized():
        dist.broadcast(step, src=0)
    if step >= 0:
        checkpoint = step_prefix(plan.checkpoint_prefix, int(step))
        resume(store, checkpoint, plan, state, work_dir)
        logger.info("rank %d resumes from %s", rank, checkpoint)
    elif plan.initial is not None:
        if store.exists(f"{plan.initial}/state.json"):
            start_from(store, plan.initial, plan, state, work_dir)
        elif store.exists(f"{plan.initial}/config.json"):
            _start_from_hub(store, plan.initial, plan.model, decoder, work_dir)
        else:
            raise NotFoundError(
                f"there is neither a checkpoint nor a model under {plan.initial} in {store.uri}, "
                f"from which update {plan.update} of {plan.lineage} starts; restore it from a "
                "copy, or roll back to a version whose trunk is there"
            )
    return state


def _start_from_hub(
    store: ObjectStore, prefix: str, config: ModelConfig, decoder: Decoder, work_dir: Path
) -> None:
    """Copy the weights of a Hugging Face directory in the store."""
    directory = work_dir / "initial"
    if is_published(store, prefix):
        directory = fetch_model(store, prefix, directory)
    else:
        for info in store.list(prefix):
            store.get_file(info.key, directory / info.key.removeprefix(f"{prefix}/"))
    found = read_model(directory)
    for field in _COMPUTED_FIELDS:
        if getattr(found.config, field) != getattr(config, field):
            raise ValueError(
                f"the plan's model must be that of {prefix}: {field} is "
                f"{getattr(found.config, field)} there, {getattr(config, field)} in the plan"
            )
    restore_weights(decoder, found.weights, prefix)


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


def _ignore(result: StepResult) -> None:
    """What ranks other than the first make of a step: only one records."""


def _recorder(
    store: ObjectStore,
    plan: TrainPlan,
    state: TrainState,
    order: Order,
    world_size: int,
    work_dir: Path,
) -> Callable[[StepResult], None]:
    """What rank 0 does after every step: journal, checkpoints."""
    journal = metrics.MetricJournal(store, Layout(plan.lineage).metrics(plan.update))
    describe = _describer(plan, state, world_size)
    names = [stream.name for stream in plan.mixture.streams]

    def on_step(result: StepResult) -> None:
        state.step = result.step
        journal.append(describe(result))
        is_last = result.step == plan.num_steps
        if not (
            is_last
            or result.step == plan.trunk_step
            or result.step % plan.checkpoint_every_steps == 0
        ):
            return
        # Before the checkpoint: a run that resumes from it never writes these rows again.
        journal.flush()
        tokens = order.counts_before(result.step) * plan.seq_len
        save(store, plan, state, dict(zip(names, tokens.tolist(), strict=True)), work_dir)
        discard_old(store, plan)

    return on_step


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
