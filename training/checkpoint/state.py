"""Saving and loading the whole training state, exactly, and never through pickle.

A save has two halves. ``write_local`` makes a whole checkpoint in a local folder, durable, its
manifest last; ``commit`` brings such a folder into the store, where the manifest comes last again.
``training.checkpoint.saver`` does both behind the training; ``save`` does them at once.
"""

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from storage.errors import AlreadyExistsError, CorruptError, NotFoundError
from storage.layout import KEEP_MARK
from storage.manifest import (
    digest_bytes,
    load,
    publish,
    read_verified,
    readable_json,
    unseal,
)
from storage.objects import ObjectStore
from training.checkpoint.index import (
    FORMAT,
    MANIFEST,
    CheckpointManifest,
    Progress,
    check_bytes,
    discard,
    plan_as_json,
    read_manifest,
    remove_leftovers,
    step_prefix,
)
from training.checkpoint.pieces import TensorFile
from training.checkpoint.run_life import Life, require_newest
from training.checkpoint.tensors import read_tensors, write_tensors
from training.config import TrainPlan
from training.guard.skips import Skips
from training.optim import moments_of, restore_moments

logger = logging.getLogger(__name__)

_PROGRESS = "state.json"


@dataclass(slots=True)
class TrainState:
    """What training changes."""

    model: nn.Module
    optimizer: torch.optim.AdamW
    step: int = 0
    """Global batches passed."""
    skips: Skips = field(default_factory=Skips)
    """Of the update so far."""


@dataclass(frozen=True, slots=True)
class LoadedState:
    """A checkpoint in memory of its own, every byte verified."""

    weights: dict[str, Tensor]
    moments: dict[str, Tensor]
    progress: Progress


def save(
    store: ObjectStore,
    plan: TrainPlan,
    state: TrainState,
    tokens_seen: dict[str, int],
    work_dir: Path,
) -> str:
    """Store the state now; returns the checkpoint's prefix. One rank calls this; safe to retry."""
    checkpoint = step_prefix(plan.checkpoint_prefix, state.step)
    progress = progress_of(plan, state, tokens_seen)
    local = work_dir / checkpoint
    weights, moments = weights_of(state.model), moments_of(state.model, state.optimizer)
    write_local(local, progress, _on_cpu(weights), _on_cpu(moments))
    commit(store, checkpoint, local)
    shutil.rmtree(local)
    return checkpoint


def progress_of(plan: TrainPlan, state: TrainState, tokens_seen: dict[str, int]) -> Progress:
    """Everything of the state that is not a tensor, as it is now."""
    return Progress(
        step=state.step,
        tokens_seen=dict(tokens_seen),
        plan=plan_as_json(plan),
        format=FORMAT,
        skips=state.skips.numbers_before(state.step),
    )


def write_local(
    folder: Path, progress: Progress, weights: Mapping[str, Tensor], moments: Mapping[str, Tensor]
) -> CheckpointManifest:
    """Make a checkpoint in a local folder, durable on return; replaces what lies there.

    Raises:
        OSError: The disk is full, or failed; the folder is removed.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        manifest = CheckpointManifest(
            step=progress.step,
            weights=_write_named(folder / "model.safetensors", weights),
            moments=_write_named(folder / "optimizer.safetensors", moments),
            progress=digest_bytes(readable_json(progress), _PROGRESS),
            format=FORMAT,
        )
        (folder / _PROGRESS).write_bytes(readable_json(progress))
        # Renamed into place: a manifest that is there is whole.
        (folder / ".manifest").write_bytes(readable_json(manifest))
        (folder / ".manifest").replace(folder / MANIFEST)
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return manifest


def commit(
    store: ObjectStore,
    checkpoint: str,
    folder: Path,
    *,
    life: Life | None = None,
    is_permanent: bool = False,
    bytes_per_second: float | None = None,
) -> None:
    """Bring what ``write_local`` made into the store, the manifest last. Safe to retry.

    An intact checkpoint of this step is kept, whoever saved it: a life of the run on another number
    of workers has the same samples and the same step in other last bits, and both are the run. A
    damaged one is replaced.

    Args:
        store: Where it goes.
        checkpoint: Its prefix there.
        folder: The local one, which nobody changes any more.
        life: Whose checkpoint it is; None asks nobody.
        is_permanent: It stays for as long as its update does.
        bytes_per_second: Bound of the upload; None: as fast as it goes.

    Raises:
        StaleLifeError: A newer life of the run has begun.
    """
    manifest = read_local(folder)
    if is_permanent:
        store.put_if_absent(f"{checkpoint}/{KEEP_MARK}", b"{}\n")
    if _is_saved(store, checkpoint):
        return
    for file in manifest.files:
        store.put_file(
            f"{checkpoint}/{file.name}",
            folder / file.name,
            bytes_per_second=bytes_per_second,
            may_link=True,
        )
    if life is not None:
        require_newest(store, life)
    try:
        publish(store, f"{checkpoint}/{MANIFEST}", manifest)
        logger.info("saved %s", checkpoint)
    except AlreadyExistsError:
        logger.info("%s was saved by another life of the run meanwhile and is kept", checkpoint)
    remove_leftovers(store, checkpoint)


def read_local(folder: Path) -> CheckpointManifest:
    """The manifest of a local checkpoint. Raises NotFoundError, CorruptError."""
    try:
        body = (folder / MANIFEST).read_bytes()
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no whole checkpoint in {folder}") from error
    return unseal(body, str(folder / MANIFEST), CheckpointManifest)


def load_state(
    store: ObjectStore, checkpoint: str, work_dir: Path, *, with_moments: bool = True
) -> LoadedState:
    """A checkpoint's whole state, every byte verified against the store's manifest.

    Raises:
        NotFoundError: It was never committed.
        CorruptError: Names the object, and the tensor, that is missing, short or altered.
    """
    manifest = read_manifest(store, checkpoint)
    read_verified(store, checkpoint, manifest.progress)
    progress = load(store, f"{checkpoint}/{_PROGRESS}", Progress)
    weights = _load(store, checkpoint, manifest.weights, work_dir)
    moments = _load(store, checkpoint, manifest.moments, work_dir) if with_moments else {}
    return LoadedState(weights, moments, progress)


def start_from(
    store: ObjectStore, checkpoint: str, plan: TrainPlan, state: TrainState, work_dir: Path
) -> None:
    """Begin ``plan`` with the weights, and if it says so the moments, of another run's checkpoint.

    Raises:
        CorruptError: Names the object, and the tensor, that is missing, short or altered.
    """
    keeps_moments = plan.optimizer.moments == "keep"
    loaded = load_state(store, checkpoint, work_dir, with_moments=keeps_moments)
    restore_weights(state.model, loaded.weights, checkpoint)
    restore_moments(state.model, state.optimizer, loaded.moments)


def load_weights(store: ObjectStore, checkpoint: str, work_dir: Path) -> dict[str, Tensor]:
    """A checkpoint's weights by parameter name, verified. Raises NotFoundError, CorruptError."""
    return _load(store, checkpoint, read_manifest(store, checkpoint).weights, work_dir)


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
    _check_fit(own, weights, source)
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(weights[name])


def adopt_weights(model: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Make ``weights`` the parameters of a model whose own may be on the meta device; no copy.

    Raises:
        CorruptError: A name or shape is not the model's; ``source`` says whose they are.
    """
    _check_fit(weights_of(model), weights, source)
    model.load_state_dict(weights, assign=True)


def _check_fit(own: Mapping[str, Tensor], weights: Mapping[str, Tensor], source: str) -> None:
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    expected = {name: tuple(value.shape) for name, value in own.items()}
    if shapes != expected:
        odd = min(dict(shapes.items() ^ expected.items()))
        raise CorruptError(
            f"{source} does not fit the plan's model: {odd} must have shape {expected.get(odd)}, "
            f"found {shapes.get(odd)}; start from a checkpoint of the same architecture"
        )


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


def _load(
    store: ObjectStore, checkpoint: str, file: TensorFile, work_dir: Path
) -> dict[str, Tensor]:
    """A file's tensors: of the store's own file, else of a local copy, which is made if need be."""
    key = f"{checkpoint}/{file.name}"
    here = store.local_path(key)
    if here is not None:
        return read_tensors(here, file, key)
    copy = work_dir / checkpoint / file.name
    try:
        return read_tensors(copy, file, key)
    except FileNotFoundError:
        pass
    except CorruptError as error:
        logger.warning("the local copy of a checkpoint is fetched again: %s", error)
        copy.unlink()
    try:
        store.get_file(key, copy)
    except NotFoundError as error:
        raise CorruptError(
            f"{key} is missing, its manifest promises {file.size} bytes; restore it from a copy"
        ) from error
    return read_tensors(copy, file, key)


def _write_named(path: Path, tensors: Mapping[str, Tensor]) -> TensorFile:
    """Write a file and name it after its content."""
    file = write_tensors(path, tensors)
    path.replace(path.with_name(file.name))
    return file


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
