"""What one worker does, as a process of Ray or as the only process: build, resume, train, save."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from storage.absence import when_reached
from storage.objects import ObjectStore, open_store
from training.causal_model import CausalModel
from training.checkpoint.adoption import adopt_local
from training.checkpoint.index import CheckpointConfig
from training.checkpoint.run_life import Life, begin_life
from training.checkpoint.state import TrainState
from training.config import TrainPlan
from training.data.batches import Batches
from training.data.order import Order
from training.goodput import LifeBegun
from training.guard.guard import Guard, RewindError, recent_losses
from training.guard.skips import Skip, Skips, discard_left_branch, read_skips
from training.host_memory import keep_freed_memory
from training.initial_state import state_of
from training.loop import train
from training.loss import StreamLoss
from training.parallel.config import ParallelConfig
from training.parallel.measured_memory import describe_peak
from training.parallel.spread import Spread, spread_of
from training.rank_zero import told_by_rank_zero
from training.recorder import Recorder
from training.streams import open_streams

logger = logging.getLogger(__name__)


def never() -> bool:
    """Nobody asks this worker to stop."""
    return False


def log_stage(stage: str) -> None:
    """Say what happens before the first step."""
    logger.info("%s", stage)


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
    on_stage: Callable[[str], None] = log_stage,
    asked_at: float | None = None,
    parallel: ParallelConfig | None = None,
    checkpoints: CheckpointConfig | None = None,
) -> None:
    """Train ``plan`` to its end, from its newest checkpoint. Safe to retry; every rank calls this.

    Args:
        plan: What to train.
        store_uri: The object store.
        work_dir: Local folder for fetched shards and checkpoints under way.
        rank: This worker; with more than one, torch's process group exists already.
        world_size: Workers; those that do not share their products must divide the plan's global
            batch.
        device: ``cpu`` or ``cuda:<n>``.
        num_threads: Of torch; None leaves them as they are.
        is_asked_to_stop: Looked at before every step; when it is true on any rank, that step is the
            last of this life, and a checkpoint follows it.
        on_ready: Called before the first step, and again after every rewind.
        on_stage: Told what happens, for people, while there is no step to be seen.
        asked_at: When these workers were wished for, seconds since the epoch; None: now.
        parallel: How the model is spread over the workers; None: as ``ParallelConfig`` says.
        checkpoints: How they are stored; None: as ``CheckpointConfig`` says.

    Raises:
        TrainingDivergedError: Too many steps are not finite, or what was passed over or undone
            because of it comes again.
        CorruptError: Training data or the initial weights are altered.
    """
    asked_at = time.time() if asked_at is None else asked_at
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    if device == "cpu":
        keep_freed_memory()
    checkpoints = checkpoints or CheckpointConfig()
    store = open_store(store_uri)
    on_stage("looking at the shards of the training data")
    # All workers of a machine share the shards that one of them has fetched.
    wait_seconds = checkpoints.store_wait_seconds
    shards = when_reached(
        lambda: open_streams(store, plan, work_dir / "shards", wait_seconds=wait_seconds),
        f"the start of {plan.update}",
        wait_seconds,
    )
    work_dir = work_dir / f"rank-{rank}"
    order = Order(plan.mixture, plan.global_batch_samples)
    on_device = torch.device(device)
    spread = spread_of(plan, parallel or ParallelConfig(), num_workers=world_size, device=on_device)
    batches = Batches(
        order,
        shards,
        micro_batch_size=plan.micro_batch_size,
        rank=spread.grid.data_rank(rank),
        world_size=spread.grid.data_parallel,
    )
    worker = _Worker(
        plan=plan,
        store=store,
        order=order,
        batches=batches,
        work_dir=work_dir,
        rank=rank,
        device=on_device,
        is_asked_to_stop=is_asked_to_stop,
        on_ready=on_ready,
        on_stage=on_stage,
        spread=spread,
        checkpoints=checkpoints,
    )
    with _compiler_imported(is_needed=world_size > 1):
        while not worker.train_until_rewind(asked_at):
            asked_at = time.time()
    logger.info("rank %d: %s", rank, describe_peak(on_device))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Worker:
    """What stays the same when the run goes back to an earlier checkpoint."""

    plan: TrainPlan
    store: ObjectStore
    order: Order
    batches: Batches
    work_dir: Path
    rank: int
    device: torch.device
    is_asked_to_stop: Callable[[], bool]
    on_ready: OnReady
    on_stage: Callable[[str], None]
    spread: Spread
    checkpoints: CheckpointConfig

    def train_until_rewind(self, asked_at: float) -> bool:
        """Train from the newest checkpoint of the present branch; whether this life is over.

        Going back is the same as starting: what was in memory is dropped, and the store tells.
        """
        plan, began_at = self.plan, time.time()
        # Before anything is read: what an earlier life commits from now on is refused.
        life = self._begin_life() if self.rank == 0 else None
        state, restore_seconds = self._timed_state(life)
        model: nn.Module = StreamLoss(
            cast("CausalModel", state.model),
            start_id=plan.start_id,
            num_streams=len(plan.mixture.streams),
        )
        grid = self.spread.grid
        if grid.num_workers > 1 and not grid.is_spread:
            model = _data_parallel(model, state.optimizer, plan)
        guard = self._guard(state)
        recorder = Recorder(
            self.store,
            plan,
            state,
            self.order,
            self.rank,
            grid.num_workers,
            self.work_dir,
            life=life,
            begun=LifeBegun(
                number=life.number if life else 0,
                asked_at=asked_at,
                began_at=began_at,
                restore_seconds=restore_seconds,
                first_step=state.step,
                num_workers=grid.num_workers,
            ),
            checkpoints=self.checkpoints,
        )
        self.on_stage(f"fetching the first batches, then step {state.step + 1}")
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
                tensor_parallel=grid.tensor_parallel,
            )
        except RewindError as error:
            logger.warning("rank %d of %s: %s", self.rank, plan.update, error)
            return False
        finally:
            coming.close()
            recorder.close()
        return True

    def _begin_life(self) -> Life:
        return when_reached(
            lambda: begin_life(self.store, self.plan.checkpoint_prefix),
            f"the start of {self.plan.update}",
            self.checkpoints.store_wait_seconds,
        )

    def _timed_state(self, life: Life | None) -> tuple[TrainState, float]:
        """What to go on from, and the seconds that it took to read, if it was read at all."""
        self.on_stage("loading the weights")
        started = time.monotonic()
        state = self._state(life)
        is_read = state.step > 0 or self.plan.initial is not None
        return state, time.monotonic() - started if is_read else 0.0

    def _state(self, life: Life | None) -> TrainState:
        """Weights, moments and skips to go on from."""
        found: list[dict[str, Any]] = told_by_rank_zero(
            lambda: [asdict(skip) for skip in self._find_skips(life)], self.device
        )
        state = state_of(self.store, self.plan, self.device, self.rank, self.work_dir, self.spread)
        state.skips = Skips(tuple(Skip(**fields) for fields in found))
        return state

    def _find_skips(self, life: Life | None) -> tuple[Skip, ...]:
        """Runs on rank 0: puts the run's checkpoints in order, too."""
        skips = read_skips(self.store, self.plan)
        discard_left_branch(self.store, self.plan, skips)
        assert life is not None
        adopt_local(
            *(self.store, self.plan, self.work_dir),
            life=life,
            skips=skips,
            config=self.checkpoints,
        )
        return skips.recorded

    def _guard(self, state: TrainState) -> Guard:
        losses = told_by_rank_zero(
            lambda: recent_losses(self.store, self.plan, state.skips, state.step),
            self.device,
        )
        return Guard(
            self.store,
            self.plan,
            self.order,
            state,
            losses,
            rank=self.rank,
            num_copies=self.spread.grid.replicas,
        )


@contextlib.contextmanager
def _compiler_imported(*, is_needed: bool) -> Generator[None]:
    """Import what torch imports to spread a model, while the state is read.

    It takes a processor about a second.
    """
    if not is_needed:
        yield
        return
    thread = threading.Thread(target=import_module, args=["torch._dynamo"], name="import")
    thread.start()
    try:
        yield
    finally:
        thread.join()


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
