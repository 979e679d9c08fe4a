"""The whole training state, and how it is saved: exactly, and never through pickle.

A save has two halves. ``write_local`` makes a whole checkpoint in a local folder, durable, its
manifest last; ``commit`` brings such a folder into the store, where the manifest comes last again.
``training.checkpoint.saver`` does both behind the training; ``save`` does them at once.
``training.checkpoint.restore`` reads them back.
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
from storage.manifest import publish
from storage.objects import ObjectStore
from training.checkpoint.index import (
    FORMAT,
    MANIFEST,
    Progress,
    check_bytes,
    discard,
    plan_as_json,
    remove_leftovers,
    step_prefix,
)
from training.checkpoint.local import read_local, write_local
from training.checkpoint.run_life import Life, require_newest
from training.config import TrainPlan
from training.guard.skips import Skips
from training.optim import moments_of

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class TrainState:
    """What training changes."""

    model: nn.Module
    optimizer: torch.optim.AdamW
    step: int = 0
    """Global batches passed."""
    skips: Skips = field(default_factory=Skips)
    """Of the update so far."""


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


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
