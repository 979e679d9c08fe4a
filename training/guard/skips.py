"""Which batches of an update were passed over, and why. Needs no torch.

A skip is one small immutable object, ``updates/<update>/skips/<number>.json``. Creating it is the
commit: whoever trains the update from then on, after any kill and on any number of workers, passes
the same batches over. The order of samples and the learning rate do not move: a batch that is
passed over counts as passed, nothing is learned from it.

A skip that goes back makes another branch of the run: the checkpoints behind its first batch that
do not name it belong to the branch that was left, and are never used again.
"""

import logging
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

import numpy as np

from storage.errors import CorruptError, NotFoundError
from storage.layout import Layout
from storage.manifest import load, publish
from storage.objects import ObjectStore
from training.checkpoint.index import Progress, committed_steps, discard, step_prefix
from training.config import TrainPlan
from training.data.order import IntArray, Order

logger = logging.getLogger(__name__)

Reason = Literal["not finite", "spike", "corruption"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Skip:
    """Batches from ``first_step`` to ``end_step - 1`` (0-based), from which nothing is learned."""

    number: int
    """Of the update's skips, from 0."""
    reason: Reason
    first_step: int
    end_step: int
    """``first_step`` when no data was at fault: the run only goes back."""
    found_at_step: int
    """Steps taken when it was found."""
    samples_sha256: str
    """Of stream and row of every sample of these batches, int64, in order."""
    samples: dict[str, list[int]]
    """Rows by stream of a single batch that was not finite; otherwise empty, the order tells."""
    finding: str
    """What was found, in words."""

    @property
    def goes_back(self) -> bool:
        """Whether steps that were taken are undone."""
        return self.reason != "not finite"


@dataclass(frozen=True, slots=True)
class Skips:
    """All skips of an update so far, by number."""

    recorded: tuple[Skip, ...] = ()

    @property
    def in_force(self) -> tuple[Skip, ...]:
        """Those of the present branch: going back undoes what was skipped behind that point."""
        kept: list[Skip] = []
        for skip in self.recorded:
            if skip.goes_back:
                kept = [earlier for earlier in kept if earlier.first_step < skip.first_step]
            kept.append(skip)
        return tuple(kept)

    @property
    def num_rewinds(self) -> int:
        """How often the run went back."""
        return sum(skip.goes_back for skip in self.recorded)

    def covers(self, step: int) -> bool:
        """Whether nothing is learned from the batch of ``step`` (0-based)."""
        return any(skip.first_step <= step < skip.end_step for skip in self.in_force)

    def steps_before(self, step: int) -> list[int]:
        """Batches before ``step`` from which nothing was learned, ascending."""
        return sorted(
            {
                skipped
                for skip in self.in_force
                for skipped in range(skip.first_step, min(skip.end_step, step))
            }
        )

    def numbers_before(self, step: int) -> tuple[int, ...]:
        """Skips that the state after ``step`` steps depends on."""
        return tuple(skip.number for skip in self.in_force if skip.first_step < step)

    def with_skip(self, skip: Skip) -> "Skips":
        """These and one more."""
        return Skips((*self.recorded, skip))


def read_skips(store: ObjectStore, plan: TrainPlan) -> Skips:
    """All skips of the plan's update. Raises CorruptError when one was altered."""
    prefix = Layout(plan.lineage).skips(plan.update)
    found = sum(1 for _ in store.list(prefix))
    return Skips(tuple(load(store, f"{prefix}/{number}.json", Skip) for number in range(found)))


def record_skip(store: ObjectStore, plan: TrainPlan, skip: Skip) -> None:
    """Make ``skip`` durable. Safe to retry.

    Raises:
        AlreadyExistsError: Another life of the run recorded another skip of this number.
    """
    publish(store, f"{Layout(plan.lineage).skips(plan.update)}/{skip.number}.json", skip)


def discard_left_branch(store: ObjectStore, plan: TrainPlan, skips: Skips) -> None:
    """Delete the checkpoints of branches that the run went back from. Safe to retry.

    A checkpoint belongs to the present branch when the skips that it names are those in force
    before its step.
    """
    for step in committed_steps(store, plan.checkpoint_prefix):
        checkpoint = step_prefix(plan.checkpoint_prefix, step)
        try:
            named = load(store, f"{checkpoint}/state.json", Progress).skips
        except (NotFoundError, CorruptError):
            # Damaged, which who looks for the newest intact one reports.
            continue
        if named != skips.numbers_before(step):
            logger.info("%s belongs to a branch that was left, and is deleted", checkpoint)
            discard(store, checkpoint)


def samples_of(order: Order, steps: range) -> IntArray:
    """Stream and row of every sample of ``steps``, ``int64[samples, 2]``."""
    pairs = [np.stack(order.step(step), axis=1) for step in steps]
    return np.concatenate(pairs) if pairs else np.empty((0, 2), np.int64)


def digest_of(samples: IntArray) -> str:
    """Hex SHA-256 of stream and row of samples."""
    return sha256(np.ascontiguousarray(samples, "<i8").data).hexdigest()


def learned_by_stream(order: Order, skips: Skips, step: int) -> IntArray:
    """Samples of each stream that were learned from before ``step``, ``int64[num_streams]``."""
    counts = order.counts_before(step)
    for skipped in skips.steps_before(step):
        counts = counts - (order.counts_before(skipped + 1) - order.counts_before(skipped))
    return counts
