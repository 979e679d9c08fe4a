"""Which checkpoints a run has. Needs no torch, so that a finished run is recognised at once.

A checkpoint is ``<prefix>/step-<n>/`` with weights, optimizer moments, ``state.json`` and, written
last, ``manifest.json``, which makes it exist. The tensor files carry their own hash in their names:
two lives of a run that save the same step at the same time, even on different numbers of workers,
whose sums differ in the last bits, never overwrite each other's bytes, and the first manifest wins.
"""

import json
import logging
from dataclasses import asdict, dataclass
from typing import Any

from storage.errors import CorruptError, NotFoundError
from storage.manifest import FileDigest, canonical_json, check_stored, load, verify
from storage.objects import ObjectStore
from training.config import TrainPlan
from training.errors import PlanMismatchError

logger = logging.getLogger(__name__)

KEEP_NEWEST = 2
_MANIFEST = "manifest.json"
_FREE_FIELDS = ("checkpoint_every_steps", "checkpoint_prefix")
"""What may differ between the lives of a run, because the weights do not depend on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointManifest:
    """What makes a checkpoint exist."""

    step: int
    weights: FileDigest
    """``model-<hash>.safetensors``."""
    moments: FileDigest
    """``optimizer-<hash>.safetensors``."""
    progress: FileDigest
    """``state.json``."""

    @property
    def files(self) -> tuple[FileDigest, ...]:
        """All objects but the manifest itself."""
        return self.weights, self.moments, self.progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """``state.json``: everything of a run that is not a tensor.

    There are no random states: the order of samples is a function of the step, and the model has
    no dropout.
    """

    step: int
    """Optimizer steps taken."""
    tokens_seen: dict[str, int]
    """By stream, inputs."""
    plan: dict[str, Any]
    """The plan it belongs to."""


def step_prefix(prefix: str, step: int) -> str:
    """Where the checkpoint of ``step`` lies."""
    return f"{prefix}/step-{step}"


def committed_steps(store: ObjectStore, prefix: str) -> list[int]:
    """Steps whose checkpoint was committed, newest first; its bytes are not looked at."""
    steps: list[int] = []
    for info in store.list(prefix):
        folder, _, name = info.key.removeprefix(f"{prefix}/").partition("/")
        if name == _MANIFEST and folder.removeprefix("step-").isdigit():
            steps.append(int(folder.removeprefix("step-")))
    return sorted(steps, reverse=True)


def read_manifest(store: ObjectStore, checkpoint: str) -> CheckpointManifest:
    """The manifest of one checkpoint. Raises NotFoundError, CorruptError."""
    return load(store, f"{checkpoint}/{_MANIFEST}", CheckpointManifest)


def is_intact(store: ObjectStore, checkpoint: str) -> bool:
    """Whether every byte of the checkpoint is as it was written; logs the name of what is not."""
    try:
        check_bytes(store, checkpoint)
    except NotFoundError:
        return False
    except CorruptError as error:
        logger.warning("checkpoint %s cannot be used: %s", checkpoint, error)
        return False
    return True


def check_bytes(store: ObjectStore, checkpoint: str) -> None:
    """Read all of a checkpoint, in pieces: as slow as a download, and no memory to speak of.

    Raises:
        NotFoundError: It was never committed.
        CorruptError: Names the object that is missing, short or altered.
    """
    files = read_manifest(store, checkpoint).files
    verify(store, checkpoint, files)
    for file in files:
        check_stored(store, checkpoint, file)


def latest(store: ObjectStore, prefix: str) -> str | None:
    """Prefix of the newest checkpoint whose every byte verifies, None when there is none.

    A damaged newer one is named in the log and passed over.
    """
    for step in committed_steps(store, prefix):
        if is_intact(store, step_prefix(prefix, step)):
            return step_prefix(prefix, step)
    return None


def discard(store: ObjectStore, checkpoint: str) -> None:
    """Delete a checkpoint, its manifest first, so that no half of it can be taken for a whole."""
    store.delete(f"{checkpoint}/{_MANIFEST}")
    for info in list(store.list(checkpoint)):
        store.delete(info.key)


def remove_leftovers(store: ObjectStore, checkpoint: str) -> None:
    """Delete what a committed checkpoint does not name: files of lives that died or came second."""
    named = {f"{checkpoint}/{file.name}" for file in read_manifest(store, checkpoint).files}
    for info in list(store.list(checkpoint)):
        if info.key not in named | {f"{checkpoint}/{_MANIFEST}"}:
            store.delete(info.key)


def discard_old(store: ObjectStore, plan: TrainPlan) -> None:
    """Keep the newest two checkpoints of the run, its trunk and its last; safe to retry."""
    steps = committed_steps(store, plan.checkpoint_prefix)
    for step in steps[KEEP_NEWEST:]:
        if step not in (plan.trunk_step, plan.num_steps):
            discard(store, step_prefix(plan.checkpoint_prefix, step))


def plan_as_json(plan: TrainPlan) -> dict[str, Any]:
    """The plan as it is stored, without what may change between the lives of a run."""
    fields = json.loads(canonical_json(asdict(plan)))
    return {name: value for name, value in fields.items() if name not in _FREE_FIELDS}


def check_same_plan(progress: Progress, plan: TrainPlan, checkpoint: str) -> None:
    """Refuse to continue a run under another plan.

    Raises:
        PlanMismatchError: Names the first field that differs.
    """
    difference = _difference(progress.plan, plan_as_json(plan), "")
    if difference:
        raise PlanMismatchError(
            f"{checkpoint} belongs to another plan: {difference}; continue it with its own plan, "
            "or start an update of another name"
        )


def _difference(stored: Any, wanted: Any, path: str) -> str:
    """Where two JSON values differ first, in words; empty when they are equal."""
    if isinstance(stored, dict) and isinstance(wanted, dict):
        for name in sorted(stored.keys() | wanted.keys()):
            found = _difference(stored.get(name), wanted.get(name), f"{path}.{name}".strip("."))
            if found:
                return found
        return ""
    if isinstance(stored, list) and isinstance(wanted, list) and len(stored) == len(wanted):
        pairs = enumerate(zip(stored, wanted, strict=True))
        return next((d for i, (a, b) in pairs if (d := _difference(a, b, f"{path}[{i}]"))), "")
    return "" if stored == wanted else f"{path} was {stored!r}, now {wanted!r}"
