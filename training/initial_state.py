"""Where a run's weights and moments come from: its newest checkpoint, else the plan's start."""

import logging
from pathlib import Path
from typing import cast

import torch
import torch.distributed as dist
from torch import nn

from storage.errors import CorruptError, NotFoundError
from storage.models import fetch_model, is_published
from storage.objects import ObjectStore
from training.checkpoint.index import check_same_plan, committed_steps, step_prefix
from training.checkpoint.restore import (
    LoadedState,
    load_progress,
    load_state,
    restore_each,
    start_from,
)
from training.checkpoint.state import TrainState, adopt_weights
from training.config import ForeignConfig, TrainPlan
from training.decoder.model import Decoder
from training.hub.directory import read_into
from training.model_files import build_model
from training.optim import build_optimizer, restore_moments
from training.parallel.spread import Spread
from training.rank_zero import told_by_rank_zero

logger = logging.getLogger(__name__)


def state_of(
    store: ObjectStore,
    plan: TrainPlan,
    device: torch.device,
    rank: int,
    work_dir: Path,
    spread: Spread,
) -> TrainState:
    """Weights and moments to go on from: the newest checkpoint, else the plan's initial ones.

    Every rank calls this, and all of them begin with the same step. A checkpoint that a rank finds
    damaged is named in its log and passed over by all. Of a model that the ranks share, each holds
    its pieces, and one whole tensor at a time while they are filled.

    Raises:
        PlanMismatchError: There are checkpoints of another plan.
        CorruptError: The plan's initial weights are altered.
    """
    for step in told_by_rank_zero(lambda: committed_steps(store, plan.checkpoint_prefix), device):
        checkpoint = step_prefix(plan.checkpoint_prefix, step)
        if spread.grid.is_spread:
            state = _resumed_in_pieces(store, plan, checkpoint, device, work_dir, spread)
        else:
            state = _resumed(store, plan, checkpoint, device, work_dir, spread)
        if state is not None:
            logger.info("rank %d resumes from %s", rank, checkpoint)
            return state
    return _begun(store, plan, device, work_dir, spread)


def _load_if_intact(store: ObjectStore, checkpoint: str, work_dir: Path) -> LoadedState | None:
    try:
        return load_state(store, checkpoint, work_dir)
    except (CorruptError, NotFoundError) as error:
        logger.warning("checkpoint %s cannot be used: %s", checkpoint, error)
        return None


def _is_true_everywhere(claim: bool, device: torch.device) -> bool:
    votes = torch.tensor(int(claim), device=device)
    if dist.is_initialized():
        dist.all_reduce(votes, op=dist.ReduceOp.MIN)
    return bool(votes)


def _resumed(
    store: ObjectStore,
    plan: TrainPlan,
    checkpoint: str,
    device: torch.device,
    work_dir: Path,
    spread: Spread,
) -> TrainState | None:
    """The state of a checkpoint; None when a rank finds it damaged."""
    loaded = _load_if_intact(store, checkpoint, work_dir)
    if not _is_true_everywhere(loaded is not None, device):
        return None
    assert loaded is not None
    check_same_plan(loaded.progress, plan, checkpoint)
    if isinstance(plan.model, ForeignConfig):
        from training.foreign.model import adopt_foreign  # noqa: PLC0415  transformers

        model = cast("nn.Module", build_model(plan.model, seed=None))
        adopt_foreign(model, loaded.weights, checkpoint)
    else:
        # Not drawn from the seed first, which takes longer than to read them.
        with torch.device("meta"):
            model = Decoder(plan.model)
        adopt_weights(model, loaded.weights, checkpoint)
    model = model.to(device)
    spread.apply(model)
    optimizer = build_optimizer(model, plan.optimizer)
    restore_moments(model, optimizer, loaded.moments)
    return TrainState(model=model, optimizer=optimizer, step=loaded.progress.step)


def _resumed_in_pieces(
    store: ObjectStore,
    plan: TrainPlan,
    checkpoint: str,
    device: torch.device,
    work_dir: Path,
    spread: Spread,
) -> TrainState | None:
    """As ``_resumed``, but the checkpoint is found damaged only while it is copied."""
    state = None
    try:
        progress = load_progress(store, checkpoint)
        check_same_plan(progress, plan, checkpoint)
        model = _model_in_pieces(plan, device, spread, seed=None)
        state = TrainState(model, build_optimizer(model, plan.optimizer), progress.step)
        restore_each(store, checkpoint, state, work_dir)
    except (CorruptError, NotFoundError) as error:
        logger.warning("checkpoint %s cannot be used: %s", checkpoint, error)
        state = None
    return state if _is_true_everywhere(state is not None, device) else None


def _model_in_pieces(
    plan: TrainPlan, device: torch.device, spread: Spread, *, seed: int | None
) -> nn.Module:
    """A model of which this rank has its pieces; with None their numbers may be anything."""
    if isinstance(plan.model, ForeignConfig):
        # Built whole in the host's memory: transformers computes tables meanwhile.
        foreign = cast("nn.Module", build_model(plan.model, seed=seed))
        spread.apply(foreign)
        return foreign
    with torch.device("meta"):
        model = Decoder(plan.model, seed=None)
    spread.apply(model)
    model.to_empty(device=device)
    if seed is not None:
        model.init_weights(seed)
    return model


def _begun(
    store: ObjectStore, plan: TrainPlan, device: torch.device, work_dir: Path, spread: Spread
) -> TrainState:
    seed = plan.seed if plan.initial is None else None
    if spread.grid.is_spread:
        model = _model_in_pieces(plan, device, spread, seed=seed)
    else:
        model = cast("nn.Module", build_model(plan.model, seed=seed)).to(device)
        spread.apply(model)
    state = TrainState(
        model=model, optimizer=build_optimizer(model, plan.optimizer), step=plan.first_step
    )
    if plan.initial is not None:
        if store.exists(f"{plan.initial}/state.json"):
            start_from(store, plan.initial, plan, state, work_dir)
        elif store.exists(f"{plan.initial}/config.json"):
            _start_from_hub(store, plan.initial, plan, model, work_dir)
        else:
            raise NotFoundError(
                f"there is neither a checkpoint nor a model under {plan.initial} in {store.uri}, "
                f"from which update {plan.update} of {plan.lineage} starts; restore it from a "
                "copy, or roll back to a version whose trunk is there"
            )
    return state


def _start_from_hub(
    store: ObjectStore, prefix: str, plan: TrainPlan, model: nn.Module, work_dir: Path
) -> None:
    """Copy the weights of a Hugging Face directory in the store."""
    directory = work_dir / "initial"
    if is_published(store, prefix):
        directory = fetch_model(store, prefix, directory)
    else:
        for info in store.list(prefix):
            store.get_file(info.key, directory / info.key.removeprefix(f"{prefix}/"))
    if isinstance(plan.model, ForeignConfig):
        from training.foreign.files import restore_foreign  # noqa: PLC0415  transformers

        restore_foreign(model, plan.model, directory, prefix)
        return
    read_into(cast("Decoder", model), directory, source=prefix)
