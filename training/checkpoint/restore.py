"""Reading a checkpoint back: into memory of its own, or into a model that the ranks share.

Every byte is verified against the store's manifest, also those of a local copy.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from storage.errors import CorruptError, NotFoundError
from storage.manifest import load, read_verified
from storage.objects import ObjectStore
from training.checkpoint.index import PROGRESS, Progress, read_manifest
from training.checkpoint.pieces import TensorFile
from training.checkpoint.state import TrainState, restore_weights, weights_of
from training.checkpoint.tensors import read_each, read_tensors
from training.config import TrainPlan
from training.decoder.sharding import fill, is_in_pieces
from training.optim import empty_moments, restore_moments

logger = logging.getLogger(__name__)

_Read = TypeVar("_Read")


@dataclass(frozen=True, slots=True)
class LoadedState:
    """A checkpoint in memory of its own, every byte verified."""

    weights: dict[str, Tensor]
    moments: dict[str, Tensor]
    progress: Progress


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
    progress = load(store, f"{checkpoint}/{PROGRESS}", Progress)
    weights = _load(store, checkpoint, manifest.weights, work_dir)
    moments = _load(store, checkpoint, manifest.moments, work_dir) if with_moments else {}
    return LoadedState(weights, moments, progress)


def load_progress(store: ObjectStore, checkpoint: str) -> Progress:
    """Everything of a checkpoint that is not a tensor, verified.

    Raises:
        NotFoundError: It was never committed.
        CorruptError: It is missing or altered.
    """
    read_verified(store, checkpoint, read_manifest(store, checkpoint).progress)
    return load(store, f"{checkpoint}/{PROGRESS}", Progress)


def load_weights(store: ObjectStore, checkpoint: str, work_dir: Path) -> dict[str, Tensor]:
    """A checkpoint's weights by parameter name, verified. Raises NotFoundError, CorruptError."""
    return _load(store, checkpoint, read_manifest(store, checkpoint).weights, work_dir)


def start_from(
    store: ObjectStore, checkpoint: str, plan: TrainPlan, state: TrainState, work_dir: Path
) -> None:
    """Begin ``plan`` with the weights, and if it says so the moments, of another run's checkpoint.

    Raises:
        CorruptError: Names the object, and the tensor, that is missing, short or altered.
    """
    keeps_moments = plan.optimizer.moments == "keep"
    if any(is_in_pieces(parameter) for parameter in state.model.parameters()):
        restore_each(store, checkpoint, state, work_dir, with_moments=keeps_moments)
        return
    loaded = load_state(store, checkpoint, work_dir, with_moments=keeps_moments)
    restore_weights(state.model, loaded.weights, checkpoint)
    restore_moments(state.model, state.optimizer, loaded.moments)


def restore_each(
    store: ObjectStore,
    checkpoint: str,
    state: TrainState,
    work_dir: Path,
    *,
    with_moments: bool = True,
) -> None:
    """Copy a checkpoint into a model that the ranks share, one whole tensor in memory at a time.

    Every rank calls this, and keeps its own pieces; nothing is communicated. Safe to retry: until
    it has returned the state is neither what it was nor what was stored.

    Raises:
        NotFoundError: It was never committed.
        CorruptError: Names the object, and the tensor, that is missing, short, altered or of
            another model.
        ValueError: The moments are of another model.
    """
    manifest = read_manifest(store, checkpoint)
    odd = _fill_each(store, checkpoint, manifest.weights, work_dir, weights_of(state.model))
    if odd is not None:
        raise CorruptError(
            f"{checkpoint} does not fit the plan's model: {odd} is on one side only, or of another "
            "shape; start from a checkpoint of the same architecture"
        )
    state.optimizer.state.clear()
    if not with_moments or not manifest.moments.size:
        return
    own = empty_moments(state.model, state.optimizer)
    odd = _fill_each(store, checkpoint, manifest.moments, work_dir, own)
    if odd is not None:
        raise ValueError(
            f"the stored moments do not belong to this model: {odd} is on one side only, or of "
            "another shape; start with moments: reset"
        )


def _fill_each(
    store: ObjectStore,
    checkpoint: str,
    file: TensorFile,
    work_dir: Path,
    own: Mapping[str, Tensor],
) -> str | None:
    """Copy a file's tensors into ``own``; returns the name of one that does not fit, or None."""

    def read(path: Path) -> str | None:
        missing = dict(own)
        for name, whole in read_each(path, file, f"{checkpoint}/{file.name}"):
            target = missing.pop(name, None)
            if target is None or target.shape != whole.shape:
                return name
            fill(target, whole)
        return min(missing, default=None)

    return _from_local(store, checkpoint, file, work_dir, read)


def _load(
    store: ObjectStore, checkpoint: str, file: TensorFile, work_dir: Path
) -> dict[str, Tensor]:
    key = f"{checkpoint}/{file.name}"
    return _from_local(
        store, checkpoint, file, work_dir, lambda path: read_tensors(path, file, key)
    )


def _from_local(
    store: ObjectStore,
    checkpoint: str,
    file: TensorFile,
    work_dir: Path,
    read: Callable[[Path], _Read],
) -> _Read:
    """``read`` the store's own file, else a local copy, which is made if need be.

    A local copy that ``read`` finds altered is fetched again, and read from its beginning.
    """
    key = f"{checkpoint}/{file.name}"
    here = store.local_path(key)
    if here is not None:
        return read(here)
    copy = work_dir / checkpoint / file.name
    try:
        return read(copy)
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
    return read(copy)
