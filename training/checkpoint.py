"""Saving and loading the whole training state, exactly, and never through pickle."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from storage.errors import CorruptError
from storage.manifest import digest_file, fetch_verified, load, publish, readable_json
from storage.objects import ObjectStore
from training.config import TrainPlan
from training.optim import moments_of, restore_moments
from training.state import (
    CheckpointManifest,
    Progress,
    check_same_plan,
    discard,
    is_intact,
    plan_as_json,
    read_manifest,
    step_prefix,
)

logger = logging.getLogger(__name__)

WEIGHTS, MOMENTS, PROGRESS = "model.safetensors", "optimizer.safetensors", "state.json"


@dataclass(slots=True)
class TrainState:
    """What training changes."""

    model: nn.Module
    optimizer: torch.optim.AdamW
    step: int = 0
    """Optimizer steps taken."""


def save(
    store: ObjectStore,
    plan: TrainPlan,
    state: TrainState,
    tokens_seen: dict[str, int],
    work_dir: Path,
) -> str:
    """Store the state; returns the checkpoint's prefix. One rank calls this; safe to retry.

    The same state always becomes the same bytes, so two lives of a run that save the same step do
    no harm to each other. A damaged checkpoint of this step is replaced.
    """
    checkpoint = step_prefix(plan.checkpoint_prefix, state.step)
    if is_intact(store, checkpoint):
        return checkpoint
    discard(store, checkpoint)
    local = work_dir / f"step-{state.step}"
    local.mkdir(parents=True, exist_ok=True)
    save_file(_on_cpu(weights_of(state.model)), local / WEIGHTS)
    save_file(_on_cpu(moments_of(state.model, state.optimizer)), local / MOMENTS)
    progress = Progress(step=state.step, tokens_seen=tokens_seen, plan=plan_as_json(plan))
    (local / PROGRESS).write_bytes(readable_json(progress))
    files = tuple(digest_file(local / name, name) for name in (WEIGHTS, MOMENTS, PROGRESS))
    for file in files:
        store.put_file(f"{checkpoint}/{file.name}", local / file.name)
        (local / file.name).unlink()
    manifest = CheckpointManifest(step=state.step, files=files)
    publish(store, f"{checkpoint}/manifest.json", manifest)
    logger.info("saved %s", checkpoint)
    return checkpoint


def resume(
    store: ObjectStore, checkpoint: str, plan: TrainPlan, state: TrainState, work_dir: Path
) -> None:
    """Continue ``plan`` from one of its own checkpoints. Every byte is verified before it is used.

    Raises:
        CorruptError: Names the object that is missing, short or altered.
        PlanMismatchError: The checkpoint belongs to another plan.
    """
    files = _fetch(store, checkpoint, work_dir)
    # Verified a moment ago; only its types are checked here.
    progress = load(store, f"{checkpoint}/{PROGRESS}", Progress)
    check_same_plan(progress, plan, checkpoint)
    restore_weights(state.model, load_file(files[WEIGHTS]), checkpoint)
    restore_moments(state.model, state.optimizer, load_file(files[MOMENTS]))
    state.step = progress.step


def start_from(
    store: ObjectStore, checkpoint: str, plan: TrainPlan, state: TrainState, work_dir: Path
) -> None:
    """Begin ``plan`` with the weights, and if it says so the moments, of another run's checkpoint.

    Raises:
        CorruptError: Names the object that is missing, short or altered.
    """
    files = _fetch(store, checkpoint, work_dir)
    restore_weights(state.model, load_file(files[WEIGHTS]), checkpoint)
    if plan.optimizer.moments == "keep":
        restore_moments(state.model, state.optimizer, load_file(files[MOMENTS]))


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name; of tied ones the first name only."""
    aliases = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    aliases -= {name for name, _ in model.named_parameters()}
    return {name: value for name, value in model.state_dict().items() if name not in aliases}


def restore_weights(model: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Copy ``weights`` into the model.

    Raises:
        CorruptError: A name or shape is not the model's; ``source`` says whose they are.
    """
    own = weights_of(model)
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    expected = {name: tuple(value.shape) for name, value in own.items()}
    if shapes != expected:
        odd = min(dict(shapes.items() ^ expected.items()))
        raise CorruptError(
            f"{source} does not fit the plan's model: {odd} must have shape {expected.get(odd)}, "
            f"found {shapes.get(odd)}; start from a checkpoint of the same architecture"
        )
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(weights[name])


def _fetch(store: ObjectStore, checkpoint: str, work_dir: Path) -> dict[str, Path]:
    """Local copies of all files, every hash checked."""
    local = work_dir / "fetched" / checkpoint
    return {
        file.name: fetch_verified(store, checkpoint, file, local / file.name)
        for file in read_manifest(store, checkpoint).files
    }


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
