"""Saving and loading the whole training state, exactly, and never through pickle."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from storage.errors import AlreadyExistsError, CorruptError, NotFoundError
from storage.manifest import FileDigest, digest_file, fetch_verified, load, publish, readable_json
from storage.objects import ObjectStore
from training.checkpoint_index import (
    CheckpointManifest,
    Progress,
    check_bytes,
    check_same_plan,
    discard,
    plan_as_json,
    read_manifest,
    remove_leftovers,
    step_prefix,
)
from training.config import TrainPlan
from training.optim import moments_of, restore_moments

logger = logging.getLogger(__name__)

_PROGRESS = "state.json"


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

    An intact checkpoint of this step is kept, whoever saved it: a life of the run on another number
    of workers has the same samples and the same step in other last bits, and both are the run. A
    damaged one is replaced.
    """
    checkpoint = step_prefix(plan.checkpoint_prefix, state.step)
    if _is_saved(store, checkpoint):
        return checkpoint
    local = work_dir / f"step-{state.step}"
    local.mkdir(parents=True, exist_ok=True)
    weights, moments = local / "model.safetensors", local / "optimizer.safetensors"
    save_file(_on_cpu(weights_of(state.model)), weights)
    save_file(_on_cpu(moments_of(state.model, state.optimizer)), moments)
    progress = Progress(step=state.step, tokens_seen=tokens_seen, plan=plan_as_json(plan))
    written = local / _PROGRESS
    written.write_bytes(readable_json(progress))
    manifest = CheckpointManifest(
        step=state.step,
        weights=_upload(store, checkpoint, weights, _named_by_content(weights)),
        moments=_upload(store, checkpoint, moments, _named_by_content(moments)),
        progress=_upload(store, checkpoint, written, digest_file(written, _PROGRESS)),
    )
    try:
        publish(store, f"{checkpoint}/manifest.json", manifest)
        logger.info("saved %s", checkpoint)
    except AlreadyExistsError:
        logger.info("%s was saved by another life of the run meanwhile and is kept", checkpoint)
    remove_leftovers(store, checkpoint)
    return checkpoint


def resume(
    store: ObjectStore, checkpoint: str, plan: TrainPlan, state: TrainState, work_dir: Path
) -> None:
    """Continue ``plan`` from one of its own checkpoints. Every byte is verified before it is used.

    Raises:
        CorruptError: Names the object that is missing, short or altered.
        PlanMismatchError: The checkpoint belongs to another plan.
    """
    manifest = read_manifest(store, checkpoint)
    _fetch(store, checkpoint, manifest.progress, work_dir)
    # Verified a moment ago; only its types are checked here.
    progress = load(store, f"{checkpoint}/{_PROGRESS}", Progress)
    check_same_plan(progress, plan, checkpoint)
    _restore(store, checkpoint, manifest, state, work_dir, with_moments=True)
    state.step = progress.step


def start_from(
    store: ObjectStore, checkpoint: str, plan: TrainPlan, state: TrainState, work_dir: Path
) -> None:
    """Begin ``plan`` with the weights, and if it says so the moments, of another run's checkpoint.

    Raises:
        CorruptError: Names the object that is missing, short or altered.
    """
    manifest = read_manifest(store, checkpoint)
    keeps_moments = plan.optimizer.moments == "keep"
    _restore(store, checkpoint, manifest, state, work_dir, with_moments=keeps_moments)


def load_weights(store: ObjectStore, checkpoint: str, work_dir: Path) -> dict[str, Tensor]:
    """A checkpoint's weights by parameter name, verified. Raises NotFoundError, CorruptError."""
    return load_file(_fetch(store, checkpoint, read_manifest(store, checkpoint).weights, work_dir))


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


def _is_saved(store: ObjectStore, checkpoint: str) -> bool:
    """Whether the checkpoint is there and intact; a damaged one is discarded."""
    try:
        check_bytes(store, checkpoint)
    except NotFoundError:
        return False
    except CorruptError as error:
        logger.warning("checkpoint %s is saved again: %s", checkpoint, error)
        discard(store, checkpoint)
        return False
    return True


def _restore(
    store: ObjectStore,
    checkpoint: str,
    manifest: CheckpointManifest,
    state: TrainState,
    work_dir: Path,
    *,
    with_moments: bool,
) -> None:
    weights = load_file(_fetch(store, checkpoint, manifest.weights, work_dir))
    restore_weights(state.model, weights, checkpoint)
    if with_moments:
        moments = load_file(_fetch(store, checkpoint, manifest.moments, work_dir))
        restore_moments(state.model, state.optimizer, moments)


def _fetch(store: ObjectStore, checkpoint: str, file: FileDigest, work_dir: Path) -> Path:
    """A local copy, its hash checked."""
    return fetch_verified(store, checkpoint, file, work_dir / "fetched" / checkpoint / file.name)


def _named_by_content(path: Path) -> FileDigest:
    digest = digest_file(path, path.name)
    return replace(digest, name=f"{path.stem}-{digest.sha256[:16]}{path.suffix}")


def _upload(store: ObjectStore, checkpoint: str, path: Path, file: FileDigest) -> FileDigest:
    """Store a local file, and remove it here."""
    store.put_file(f"{checkpoint}/{file.name}", path)
    path.unlink()
    return file


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
