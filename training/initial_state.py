"""Where a run's weights and moments come from: its newest checkpoint, else the plan's start."""

import logging
from pathlib import Path

import torch
import torch.distributed as dist

from storage.errors import NotFoundError
from storage.models import fetch_model, is_published
from storage.objects import ObjectStore
from training.checkpoint import TrainState, restore_weights, resume, start_from
from training.checkpoint_index import latest, step_prefix
from training.config import ModelConfig, TrainPlan
from training.hub import read_model
from training.model import Decoder
from training.optim import build_optimizer

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


def state_of(
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
