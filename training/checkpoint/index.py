"""Which checkpoints a run has. Needs no torch, so that a finished run is recognised at once.

A checkpoint is ``<prefix>/step-<n>/`` with weights, optimizer moments, ``state.json`` and, written
last, ``manifest.json``, which makes it exist; a permanent one has ``keep.json`` too. The tensor
files carry their own hash in their names: two lives of a run that save the same step at the same
time, even on different numbers of workers, whose sums differ in the last bits, never overwrite each
other's bytes, and the first manifest wins.
"""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from infra.bounds import FORBID_UNKNOWN, Bounds
from storage.errors import CorruptError, NotFoundError
from storage.layout import KEEP_MARK
from storage.manifest import FileDigest, canonical_json, check_stored, load, verify
from storage.objects import ObjectStore
from training.checkpoint.pieces import TensorFile, check_stored_file
from training.config import TrainPlan
from training.errors import PlanMismatchError
from training.guard.rewind import kept_for_rewind
from training.identity import identity_fields
from training.plan_difference import differences, told

logger = logging.getLogger(__name__)

FORMAT = 4
"""Of what is written now. 1, without a number, had one hash a tensor file and no pieces; 2 had
SHA-256 of them alone; 3 a CRC-32 instead of XXH3."""
MANIFEST = "manifest.json"
PROGRESS = "state.json"
_FREE_FIELDS = ("checkpoint_every_steps", "checkpoint_prefix")
"""What may differ between the lives of a run, because the weights do not depend on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointConfig:
    """How checkpoints are stored. Says nothing of the weights, so it is in no identity."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN

    keep_newest: Annotated[int, Bounds(gt=0)] = 2
    """Checkpoints kept of a run, besides its trunk, its last and the permanent ones; at least 1.
    More than one, so that there is another when the newest is damaged."""
    permanent_every_steps: Annotated[int | None, Bounds(gt=0, unit="steps")] = None
    """Checkpoints of every so many steps stay for as long as their update does; only the trunk's
    when not set."""
    upload_bytes_per_second: Annotated[float | None, Bounds(gt=0, unit="bytes a second")] = None
    """Bound of the network that a checkpoint takes; as fast as it goes when not set."""
    store_wait_seconds: Annotated[float, Bounds(ge=0, unit="seconds")] = 600.0
    """How long a run waits for a store that is away, before it fails: when it starts, when it needs
    data that this machine does not have, and at its end, for its last checkpoint."""

    def is_permanent(self, step: int) -> bool:
        """Whether the checkpoint of ``step`` is kept whatever comes later."""
        every = self.permanent_every_steps
        return every is not None and step % every == 0

    def is_needed(self, step: int, plan: TrainPlan) -> bool:
        """Whether no later checkpoint makes up for that of ``step``."""
        return step in plan.needed_steps or self.is_permanent(step)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointManifest:
    """What makes a checkpoint exist."""

    step: int
    weights: TensorFile
    """``model-<hash>.safetensors``."""
    moments: TensorFile
    """``optimizer-<hash>.safetensors``."""
    progress: FileDigest
    """``state.json``."""
    format: int = 1

    @property
    def files(self) -> tuple[FileDigest, ...]:
        """All objects but the manifest itself."""
        return self.weights.digest, self.moments.digest, self.progress


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
    format: int = 1
    skips: tuple[int, ...] = ()
    """Numbers of the skips that it depends on, see ``training.guard.skips``."""


def step_prefix(prefix: str, step: int) -> str:
    """Where the checkpoint of ``step`` lies."""
    return f"{prefix}/step-{step}"


def local_steps(run: Path) -> list[tuple[int, Path]]:
    """Steps with a folder in a run's local one, whole or not, ascending, and the folder of each."""
    found = ((path.name.removeprefix("step-"), path) for path in run.glob("step-*"))
    return sorted((int(step), path) for step, path in found if step.isdigit())


def committed_steps(store: ObjectStore, prefix: str) -> list[int]:
    """Steps whose checkpoint was committed, newest first; its bytes are not looked at."""
    steps: list[int] = []
    for info in store.list(prefix):
        folder, _, name = info.key.removeprefix(f"{prefix}/").partition("/")
        if name == MANIFEST and folder.removeprefix("step-").isdigit():
            steps.append(int(folder.removeprefix("step-")))
    return sorted(steps, reverse=True)


def read_manifest(store: ObjectStore, checkpoint: str) -> CheckpointManifest:
    """The manifest of one checkpoint.

    Raises:
        NotFoundError: There is none.
        CorruptError: It was altered, or written by a newer version.
    """
    manifest = load(store, f"{checkpoint}/{MANIFEST}", CheckpointManifest)
    if manifest.format > FORMAT:
        raise CorruptError(
            f"{checkpoint} has format {manifest.format}, this version reads up to {FORMAT}; "
            "go on with the version that wrote it"
        )
    return manifest


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
    manifest = read_manifest(store, checkpoint)
    verify(store, checkpoint, manifest.files)
    check_stored(store, checkpoint, manifest.progress)
    for file in (manifest.weights, manifest.moments):
        check_stored_file(store, checkpoint, file)


def latest(store: ObjectStore, prefix: str, *, at_most: int | None = None) -> str | None:
    """Prefix of the newest checkpoint whose every byte verifies, None when there is none.

    A damaged newer one is named in the log and passed over. With ``at_most``, steps after it are
    not looked at.
    """
    for step in committed_steps(store, prefix):
        if at_most is not None and step > at_most:
            continue
        if is_intact(store, step_prefix(prefix, step)):
            return step_prefix(prefix, step)
    return None


def discard(store: ObjectStore, checkpoint: str) -> None:
    """Delete a checkpoint, its manifest first, so that no half of it can be taken for a whole."""
    store.delete(f"{checkpoint}/{MANIFEST}")
    for info in list(store.list(checkpoint)):
        store.delete(info.key)


def remove_leftovers(store: ObjectStore, checkpoint: str) -> None:
    """Delete what a committed checkpoint does not name: files of lives that died or came second."""
    named = {file.name for file in read_manifest(store, checkpoint).files}
    named |= {MANIFEST, KEEP_MARK}
    for info in list(store.list(checkpoint)):
        if info.key.removeprefix(f"{checkpoint}/") not in named:
            store.delete(info.key)


def discard_old(
    store: ObjectStore, plan: TrainPlan, config: CheckpointConfig | None = None
) -> None:
    """Discard the checkpoints that are not kept; safe to retry.

    Kept are the newest, the trunk, the last, those that the release averages or a rewind may need,
    and the permanent ones.
    """
    config = config or CheckpointConfig()
    steps = committed_steps(store, plan.checkpoint_prefix)
    kept = {*plan.needed_steps, *steps[: config.keep_newest]}
    kept |= kept_for_rewind(steps, plan)
    for step in steps:
        if step not in kept and not config.is_permanent(step):
            discard(store, step_prefix(plan.checkpoint_prefix, step))


def plan_as_json(plan: TrainPlan) -> dict[str, Any]:
    """The plan as it is stored, without what may change between the lives of a run."""
    fields = json.loads(canonical_json(identity_fields(plan)))
    return {name: value for name, value in fields.items() if name not in _FREE_FIELDS}


def check_same_plan(progress: Progress, plan: TrainPlan, checkpoint: str) -> None:
    """Refuse to continue a run under another plan.

    Raises:
        PlanMismatchError: Names the fields that differ, with both values.
    """
    changes = differences(progress.plan, plan_as_json(plan))
    if changes:
        raise PlanMismatchError(
            f"{checkpoint} belongs to another plan: {told(changes)}; continue it with its own "
            "plan, or start an update of another name"
        )
