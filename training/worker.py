"""What one worker does, as a process of Ray or as the only process: build, resume, train, save."""

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from storage.errors import CorruptError
from storage.file_cache import FileCache
from storage.layout import Layout
from storage.objects import ObjectStore, open_store
from storage.snapshots import read_snapshot_manifest
from training.causal_model import CausalModel
from training.checkpoint.index import CheckpointConfig
from training.checkpoint.run_life import begin_life
from training.checkpoint.state import TrainState
from training.config import TrainPlan
from training.data.batches import Batches
from training.data.order import Order
from training.data.shards import MdsReader, TrainShards
from training.guard.guard import Guard, RewindError, recent_losses
from training.guard.skips import Skip, Skips, discard_left_branch, read_skips
from training.initial_state import state_of
from training.loop import train
from training.loss import StreamLoss
from training.parallel.config import ParallelConfig
from training.rank_zero import told_by_rank_zero
from training.recorder import Recorder

logger = logging.getLogger(__name__)


def never() -> bool:
    """Nobody asks this worker to stop."""
    return False


OnReady = Callable[[nn.Module, torch.optim.Optimizer, int], None]
"""Gets the model as the loop calls it, its optimizer, and the steps taken before this life."""


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
    on_ready: OnReady = lambda *_: None,
    parallel: ParallelConfig | None = None,
    checkpoints: CheckpointConfig | None = None,
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
        on_ready: Called before the first step, and again after every rewind.
        parallel: How the model is spread over the workers; None: as ``ParallelConfig`` says.
        checkpoints: How they are stored; None: as ``CheckpointConfig`` says.

    Raises:
        TrainingDivergedError: Too many steps are not finite, or what was passed over or undone
            because of it comes again.
        CorruptError: Training data or the initial weights are altered.
    """
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    store = open_store(store_uri)
    # All workers of a machine share the shards that one of them has fetched.
    shards = open_streams(store, plan, work_dir / "shards")
    work_dir = work_dir / f"rank-{rank}"
    order = Order(plan.mixture, plan.global_batch_samples)
    batches = Batches(
        order,
        shards,
        micro_batch_size=plan.micro_batch_size,
        rank=rank,
        world_size=world_size,
    )
    worker = _Worker(
        plan,
        store,
        order,
        batches,
        work_dir,
        rank,
        world_size,
        device,
        is_asked_to_stop,
        on_ready,
        parallel or ParallelConfig(),
        checkpoints or CheckpointConfig(),
    )
    is_over = False
    while not is_over:
        is_over = worker.train_until_rewind()


@dataclass(frozen=True, slots=True)
class _Worker:
    """What stays the same when the run goes back to an earlier checkpoint."""

    plan: TrainPlan
    store: ObjectStore
    order: Order
    batches: Batches
    work_dir: Path
    rank: int
    world_size: int
    device: str
    is_asked_to_stop: Callable[[], bool]
    on_ready: OnReady
    parallel: ParallelConfig
    checkpoints: CheckpointConfig

    def train_until_rewind(self) -> bool:
        """Train from the newest checkpoint of the present branch; whether this life is over.

        Going back is the same as starting: what was in memory is dropped, and the store tells.
        """
        plan = self.plan
        # Before anything is read: what an earlier life commits from now on is refused.
        life = begin_life(self.store, plan.checkpoint_prefix) if self.rank == 0 else None
        state = self._state()
        model: nn.Module = StreamLoss(
            cast("CausalModel", state.model),
            start_id=plan.start_id,
            num_streams=len(plan.mixture.streams),
        )
        if self.world_size > 1:
            model = _data_parallel(model, state.optimizer, plan)
        guard = self._guard(state)
        recorder = Recorder(
            self.store,
            plan,
            state,
            self.order,
            self.rank,
            self.world_size,
            self.work_dir,
            life=life,
            checkpoints=self.checkpoints,
        )
        self.on_ready(model, state.optimizer, state.step)
        coming = self.batches.iterate(state.step, plan.num_steps)
        try:
            train(
                model,
                state.optimizer,
                coming,
                plan,
                lambda result: recorder.on_step(result, guard.judge(result)),
                is_skipped=guard.is_skipped,
                before_update=recorder.before_update,
                is_asked_to_stop=self.is_asked_to_stop,
            )
        except RewindError as error:
            logger.warning("rank %d of %s: %s", self.rank, plan.update, error)
            return False
        finally:
            coming.close()
            recorder.close()
        return True

    def _state(self) -> TrainState:
        """Weights, moments and skips to go on from."""
        device = torch.device(self.device)
        found: list[dict[str, Any]] = told_by_rank_zero(
            lambda: [asdict(skip) for skip in self._find_skips()], device
        )
        state = state_of(self.store, self.plan, device, self.rank, self.work_dir)
        state.skips = Skips(tuple(Skip(**fields) for fields in found))
        return state

    def _find_skips(self) -> tuple[Skip, ...]:
        skips = read_skips(self.store, self.plan)
        discard_left_branch(self.store, self.plan, skips)
        return skips.recorded

    def _guard(self, state: TrainState) -> Guard:
        losses = told_by_rank_zero(
            lambda: recent_losses(self.store, self.plan, state.skips, state.step),
            torch.device(self.device),
        )
        return Guard(
            self.store,
            self.plan,
            self.order,
            state,
            losses,
            rank=self.rank,
            world_size=self.world_size,
        )


def open_streams(store: ObjectStore, plan: TrainPlan, cache: Path) -> list[TrainShards]:
    """A reader for each stream of the plan's mixture, in their order."""
    layout = Layout(plan.lineage)
    manifests = {
        name: read_snapshot_manifest(store, layout, name)
        for name in sorted({stream.snapshot for stream in plan.mixture.streams})
    }
    files_of_machine = FileCache(cache)
    opened: list[TrainShards] = []
    for stream in plan.mixture.streams:
        snapshot = layout.snapshot(stream.snapshot)
        folder = stream.prefix.removeprefix(f"{snapshot}/")
        files = manifests[stream.snapshot].files
        reader = MdsReader(store, snapshot, folder, files, files_of_machine)
        if len(reader) != stream.available:
            raise CorruptError(
                f"{stream.prefix} must hold the {stream.available} samples of the plan, found "
                f"{len(reader)}; plan the update again"
            )
        opened.append(TrainShards(reader, seq_len=plan.seq_len))
    return opened


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
