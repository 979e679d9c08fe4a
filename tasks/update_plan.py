"""One update before it is run: what is stored as ``plan.json``."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from infra.bounds import Bounds
from storage.layout import Layout
from storage.manifest import load, publish
from storage.objects import ObjectStore
from tasks.scoring.panel import Guard
from training.config import (
    FORBID_UNKNOWN,
    Recipe,
    TrainPlan,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class BudgetConfig:
    """How long an update trains."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN

    epochs: Annotated[float, Bounds(gt=0, unit="passes")] = 1.0
    """Passes over the new data; replay comes on top of it within the same steps."""
    tokens: Annotated[int | None, Bounds(gt=0, le=10**15, unit="tokens")] = None
    """Tokens of an update, replay included; takes the place of ``epochs``."""
    first_tokens: Annotated[int | None, Bounds(gt=0, le=10**15, unit="tokens")] = None
    """Tokens of the first version of a lineage from nothing; as other updates if not set."""
    checkpoint_every_tokens: Annotated[int, Bounds(gt=0, unit="tokens")] = 50_000_000
    """Distance of checkpoints, the most that a crash can cost."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UpdatePlan:
    """One update before it is run; stored as ``plan.json``."""

    id: str
    version: str
    """Name of the candidate that it will produce."""
    lineage: str
    champion: str | None
    """The version that the candidate will be compared with."""
    trunk: str | None
    snapshots: tuple[str, ...]
    new_tokens: int
    """Tokens of the pending training data, once over."""
    replay: str | None
    replay_share_requested: float
    replay_share: float
    """What the mixture realises, the reference included."""
    suite: str
    recipe: Recipe
    train: TrainPlan
    budget: BudgetConfig | None = None
    """What its length was asked for with; None in plans from before this was kept."""
    judged_on: tuple[str, ...] = ()
    """Snapshots that count as new when it is judged, where they are not ``snapshots``: a branch of
    a published update learns from what was learned already."""
    gain: Guard | None = None
    """Held-out new text that has to show a gain; None when there is none, or was not asked for."""
    guards: tuple[Guard, ...] = ()
    """Held-out old text that must show that nothing is lost, and what of it only informs."""
    unguarded: tuple[str, ...] = ()
    """What the verdict will not see, a sentence each with what would help."""
    remedy: str = ""
    """How the candidate repairs another one that has failed, for people; "" when it does not."""
    remedy_of: str = ""
    """Version that it repairs."""
    merged_from: tuple[str, ...] = ()
    """Versions that it was merged from, by no training of its own; ``train`` is then that of
    ``remedy_of``."""
    reference_share_requested: float = 0.0
    """0 without a reference, and in plans from before it was asked for, which replayed it by its
    size."""

    @property
    def next_trunk(self) -> str | None:
        """Checkpoint that an update after this one continues from; None: the model's own weights.

        A merge lies on no run's way, and moments mean nothing to it.
        """
        return None if self.merged_from else self.train.trunk

    @property
    def total_tokens(self) -> int:
        """Tokens that will be trained on, replay included, and those of what was taken over."""
        return self.train.num_steps * self.train.global_batch_tokens

    @property
    def new_snapshots(self) -> tuple[str, ...]:
        """Snapshots whose held-out text must show a gain."""
        return self.judged_on or self.snapshots


def save_plan(store: ObjectStore, layout: Layout, plan: UpdatePlan) -> None:
    """Write ``plan.json`` once. Safe to retry."""
    # Not compared with what is there: an earlier version spelled the same plan with fewer fields.
    if not is_saved(store, layout, plan.id):
        publish(store, layout.plan(plan.id), plan)


def load_plan(store: ObjectStore, layout: Layout, update: str) -> UpdatePlan:
    """Read an update's plan back."""
    return load(store, layout.plan(update), UpdatePlan)


def is_saved(store: ObjectStore, layout: Layout, update: str) -> bool:
    """Whether an update was begun: its plan is stored."""
    return store.exists(layout.plan(update))
