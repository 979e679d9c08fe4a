"""Plan an update: what will be trained on, how long, at which rate; or why there is nothing to do.

The plan's identity is the hash of everything that can change the weights: where training starts,
the snapshots, the replay version, the recipe, the budget and the seed. An update with an identity
that was judged already is not run twice.
"""

import logging
import math
from dataclasses import dataclass

from storage.head import Head, VersionRecord
from storage.layout import Layout
from storage.manifest import identity_of
from storage.objects import ObjectStore
from storage.replay import read_replay
from storage.snapshots import SnapshotManifest, read_snapshot
from tasks.mix import MAX_REFERENCE_PASSES, NewSlice, ReplayConfig, mix, old_samples, shares_of
from tasks.plan_checks import check_compatible, check_same_model, stored_config
from tasks.update_plan import BudgetConfig, UpdatePlan, is_saved, load_plan
from training.config import (
    ForeignConfig,
    Mixture,
    ModelConfig,
    Recipe,
    Schedule,
    TrainPlan,
)
from training.identity import identity_fields
from training.release import release_of
from training.schedule import resolve

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NothingToDo:
    """Success without work."""

    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanRequest:
    """What the lineage's configuration says about its updates."""

    recipe: Recipe
    budget: BudgetConfig
    replay: ReplayConfig
    new_model: ModelConfig | None
    """Architecture for a lineage that starts from nothing."""


def make_plan(
    store: ObjectStore, layout: Layout, head: Head, request: PlanRequest
) -> UpdatePlan | NothingToDo:
    """The next update of the lineage, or why there is none. Reads the store, writes nothing."""
    pending = pending_snapshots(store, layout, head)
    new_tokens = sum(piece.train_tokens for snapshot in pending for piece in snapshot.domains)
    if not pending or new_tokens == 0:
        return NothingToDo("no pending snapshot: nothing new since the last update")
    plan = plan_of(store, layout, head, request, pending, new_tokens)
    judged = judged_as(head, plan.id)
    if judged is not None:
        return NothingToDo(
            f"the pending data was already judged under this recipe: version {judged.version} is "
            f"{judged.verdict} ({judged.decision}); change the recipe, wait for new data, "
            "or decide by hand"
        )
    # As it was stored by a run that was interrupted: names and cadence stay what they were.
    return load_plan(store, layout, plan.id) if is_saved(store, layout, plan.id) else plan


def judged_as(head: Head, update: str) -> VersionRecord | None:
    """The version that an update has made, None when it was not judged."""
    return next((record for record in head.versions if record.update == update), None)


def pending_snapshots(store: ObjectStore, layout: Layout, head: Head) -> list[SnapshotManifest]:
    """What waits to be trained on, in the order in which it came."""
    return [
        read_snapshot(store, layout, record.id)
        for record in head.snapshots
        if record.state == "pending"
    ]


def held_under_another_recipe(
    store: ObjectStore, layout: Layout, head: Head, request: PlanRequest
) -> list[str]:
    """Snapshots that a rollback held, and that the recipe of today would train differently."""
    held = {record.id for record in head.snapshots if record.state == "held"}
    trained_like_today: set[str] = set()
    rolled_back: set[str] = set()
    for record in head.versions:
        if record.decision == "rolled_back" and held & set(record.snapshots):
            # A remedy's own recipe is not what anybody has asked for.
            plan = load_plan(store, layout, _asked_for(head, record).update)
            rolled_back |= set(record.snapshots)
            asked = (plan.recipe, plan.replay_share_requested, plan.reference_share_requested)
            reference_share = request.replay.reference_share if references_of(head) else 0.0
            if asked == (request.recipe, request.replay.share, reference_share):
                trained_like_today |= set(record.snapshots)
    return sorted((held & rolled_back) - trained_like_today)


def _asked_for(head: Head, record: VersionRecord) -> VersionRecord:
    """The version that the configuration made, also where another one has repaired it."""
    return next((known for known in head.versions if known.version == record.remedy_of), record)


def references_of(head: Head) -> frozenset[str]:
    """The snapshots that stand for what an imported base was trained on."""
    return frozenset(record.id for record in head.snapshots if record.role == "reference")


def plan_of(
    store: ObjectStore,
    layout: Layout,
    head: Head,
    request: PlanRequest,
    pending: list[SnapshotManifest],
    new_tokens: int,
) -> UpdatePlan:
    """What the configuration asks for, of these snapshots, from the lineage's trunk on.

    Raises:
        ValueError: The configuration does not fit the lineage; names the field.
    """
    recipe = request.recipe
    replay = read_replay(store, layout, head.replay) if head.replay else None
    new = [
        NewSlice(snapshot.id, piece.domain, piece.train_samples)
        for snapshot in pending
        for piece in snapshot.domains
    ]
    start = _start_of(store, layout, head, request)
    # Another seed for every update: with the recipe's own, each would replay the same samples.
    seed = int(identity_of([recipe.seed, start.initial, [piece.id for piece in pending]])[:15], 16)
    references = references_of(head)
    old = old_samples(replay, references)
    beside = _samples_beside(request, new, old.reference)
    shares = shares_of(request.replay, old, beside=beside)
    mixture = mix(layout, new, replay, shares=shares, seed=seed, references=references)
    replayed = sum(stream.parts for stream in mixture.streams if stream.is_replay)
    replay_share = replayed / mixture.total_parts
    num_steps = num_steps_of(request.budget, recipe, new, replay_share, is_first=not head.champion)
    check_compatible(pending, head, recipe, start.model)
    inputs = {
        "initial": start.initial,
        "model": identity_fields(start.model),
        "snapshots": [snapshot.id for snapshot in pending],
        "replay": head.replay if replayed else None,
        "mixture": identity_fields(mixture),
        "recipe": identity_fields(recipe),
        "num_steps": num_steps,
        "tokenizer": head.tokenizer,
    }
    update = identity_of(inputs)[:16]
    return UpdatePlan(
        id=update,
        version=f"{len(head.versions) + 1}-{update[:8]}",
        lineage=layout.lineage,
        champion=head.champion,
        trunk=head.trunk,
        snapshots=tuple(snapshot.id for snapshot in pending),
        new_tokens=new_tokens,
        replay=head.replay if replayed else None,
        replay_share_requested=request.replay.share,
        replay_share=replay_share,
        reference_share_requested=request.replay.reference_share if old.reference else 0.0,
        suite=head.suite or "",
        recipe=recipe,
        budget=request.budget,
        train=_train_plan(layout, request, start, pending[0], mixture, num_steps, update),
    )


@dataclass(frozen=True, slots=True)
class _Start:
    """Where training starts from."""

    initial: str | None
    model: ModelConfig | ForeignConfig
    trunk_tokens: int = 0


def _train_plan(
    layout: Layout,
    request: PlanRequest,
    start: _Start,
    snapshot: SnapshotManifest,
    mixture: Mixture,
    num_steps: int,
    update: str,
) -> TrainPlan:
    recipe = request.recipe
    schedule = resolve(
        recipe.schedule,
        total_tokens=num_steps * recipe.global_batch_tokens,
        trunk_tokens=start.trunk_tokens,
    )
    cadence = request.budget.checkpoint_every_tokens // recipe.global_batch_tokens
    return TrainPlan(
        lineage=layout.lineage,
        update=update,
        checkpoint_prefix=layout.checkpoints(update),
        initial=start.initial,
        model=start.model,
        start_id=snapshot.start_id,
        end_id=snapshot.end_id,
        mixture=mixture,
        schedule=schedule,
        optimizer=recipe.optimizer,
        seq_len=recipe.seq_len,
        global_batch_samples=recipe.global_batch_samples,
        micro_batch_size=recipe.micro_batch_size,
        num_steps=num_steps,
        precision=recipe.precision,
        seed=recipe.seed,
        checkpoint_every_steps=max(1, cadence),
        trunk_step=trunk_step_of(schedule, recipe, num_steps),
        release=release_of(
            recipe.release,
            num_steps=num_steps,
            global_batch_tokens=recipe.global_batch_tokens,
        ),
    )


def _start_of(store: ObjectStore, layout: Layout, head: Head, request: PlanRequest) -> _Start:
    if head.trunk:
        # The trunk lies among the checkpoints of the update that made it.
        update, step = layout.checkpoint_of(head.trunk)
        earlier = load_plan(store, layout, update).train
        check_same_model(layout, request.new_model, earlier.model)
        # Warm-up and cooldown happen once in the life of a trunk *under this schedule*.
        trained = 0
        if earlier.schedule.kind == "infinite":
            trained = earlier.schedule.trunk_tokens
            trained += step * earlier.global_batch_tokens
        return _Start(head.trunk, earlier.model, trained)
    if head.champion:
        return _Start(layout.model(head.champion), stored_config(store, layout, head.champion))
    if request.new_model is None:
        raise ValueError(
            f"lineage {layout.lineage!r} has no model yet and its configuration names none: "
            "set base.model to start from nothing, or base.directory to import one"
        )
    return _Start(None, request.new_model)


def trunk_step_of(schedule: Schedule, recipe: Recipe, num_steps: int) -> int:
    """Step before the anneal, if the schedule anneals on a branch; else the last."""
    if schedule.kind != "infinite":
        return num_steps
    return max(1, num_steps - round(schedule.decay_tokens / recipe.global_batch_tokens))


def _samples_beside(request: PlanRequest, new: list[NewSlice], reference: int) -> float:
    """Samples that an update draws beside a reference of so many; at least 0."""
    budget = request.budget
    if budget.tokens is None:
        return budget.epochs * sum(piece.samples for piece in new) / (1 - request.replay.share)
    return max(0.0, budget.tokens / request.recipe.seq_len - MAX_REFERENCE_PASSES * reference)


def num_steps_of(
    budget: BudgetConfig,
    recipe: Recipe,
    new: list[NewSlice],
    replay_share: float,
    *,
    is_first: bool,
) -> int:
    """Optimizer steps that the budget asks for, rounded up to whole ones."""
    tokens = (budget.first_tokens if is_first else None) or budget.tokens
    if tokens is None:
        samples = budget.epochs * sum(piece.samples for piece in new) / (1 - replay_share)
        return max(1, math.ceil(samples / recipe.global_batch_samples))
    return max(1, math.ceil(tokens / recipe.global_batch_tokens))
