"""Going on from an update that was left unfinished, under another configuration, when asked to.

The new plan begins with a checkpoint of the old one, and says so: its identity covers the update
and the step, and its ledger counts what the old one trained up to there.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from storage.errors import CorruptError, NotFoundError
from storage.head import Head
from storage.layout import Layout
from storage.manifest import identity_of, load, publish
from storage.objects import ObjectStore
from storage.snapshots import SnapshotManifest
from storage.taken_over import TakenOverMark
from tasks.plan import PlanRequest, pending_snapshots, plan_of, trunk_step_of
from tasks.plan_changes import ConfigurationChangedError, Unfinished
from tasks.update_plan import UpdatePlan, is_saved, load_plan, save_plan
from training.checkpoint.index import Progress, committed_steps, is_intact, step_prefix
from training.checkpoint.run_life import begin_life
from training.config import Mixture, TakenOver, TrainPlan
from training.data.order import Order
from training.guard.skips import Skips, read_skips, record_skip
from training.identity import identity_fields
from training.schedule import resolve

Mode = Literal["continue", "new_phase", "weights_only"]


def take_over(
    store: ObjectStore,
    layout: Layout,
    head: Head,
    request: PlanRequest,
    unfinished: Unfinished,
    mode: Mode,
) -> UpdatePlan:
    """The plan that goes on from the newest intact checkpoint of an unfinished update.

    ``continue`` keeps the update's own snapshots; the others plan all that is pending.

    Raises:
        ConfigurationChangedError: What was changed cannot be gone on from in this way.
        CorruptError: No checkpoint of the update is intact.
    """
    begun = unfinished.plan
    _check_possible(unfinished, mode)
    step = newest_usable_step(store, begun.train)
    pending = pending_snapshots(store, layout, head)
    if mode == "continue":
        pending = [snapshot for snapshot in pending if snapshot.id in begun.snapshots]
    return taken_over_plan(store, layout, head, request, begun, step, mode, pending)


def taken_over_plan(
    store: ObjectStore,
    layout: Layout,
    head: Head,
    request: PlanRequest,
    begun: UpdatePlan,
    step: int,
    mode: Mode,
    pending: Sequence[SnapshotManifest],
) -> UpdatePlan:
    """What today's configuration makes of ``begun`` from ``step`` on; the same for the same values.

    Args:
        store: Where the lineage lies.
        layout: Of the lineage.
        head: The newest.
        request: Today's configuration.
        begun: The update that was left.
        step: Of the checkpoint to begin with.
        mode: See ``training.config.TakenOver``.
        pending: Snapshots to train on.

    Raises:
        ValueError: The configuration does not fit, or leaves no step to take.
    """
    new_tokens = sum(piece.train_tokens for snapshot in pending for piece in snapshot.domains)
    today = plan_of(store, layout, head, request, list(pending), new_tokens)
    make = _continued if mode == "continue" else _begun_anew
    return renamed(layout, today, make(request, today, begun, step, mode))


def renamed(layout: Layout, today: UpdatePlan, train: TrainPlan) -> UpdatePlan:
    """``today`` with another training, and the identity that follows from where it begins."""
    update = identity_of([today.id, train.initial, identity_fields(train.taken_over)])[:16]
    return replace(
        today,
        id=update,
        version=f"{today.version.partition('-')[0]}-{update[:8]}",
        train=replace(train, update=update, checkpoint_prefix=layout.checkpoints(update)),
    )


def begin(store: ObjectStore, layout: Layout, plan: UpdatePlan) -> None:
    """Store the plan, and what its first step relies on. Safe to retry.

    What is taken over is marked as needed before the plan exists, no earlier life of its run
    commits or discards anything any more, and the batches that it passed over stay passed over
    where the order of samples goes on.
    """
    origin = plan.train.taken_over
    if origin is not None and not is_saved(store, layout, plan.id):
        old = load_plan(store, layout, origin.update).train
        begin_life(store, old.checkpoint_prefix)
        publish(store, layout.taken_over(plan.id), TakenOverMark(update=origin.update))
        if plan.train.mixture == old.mixture and origin.mode in ("continue", "branch"):
            for number, skip in enumerate(read_skips(store, old).in_force):
                record_skip(store, plan.train, replace(skip, number=number))
    save_plan(store, layout, plan)


def newest_usable_step(store: ObjectStore, plan: TrainPlan) -> int:
    """The newest step whose checkpoint is intact and on the run's present branch.

    Raises:
        CorruptError: There is none.
    """
    skips = read_skips(store, plan)
    steps = committed_steps(store, plan.checkpoint_prefix)
    for step in steps:
        if is_usable(store, plan, step, skips):
            return step
    raise CorruptError(
        f"update {plan.update} must have an intact checkpoint to be taken over, and none of its "
        f"{len(steps)} is: restore one from a copy, or discard it with "
        "'perennial update --take-over nothing'"
    )


def is_usable(store: ObjectStore, plan: TrainPlan, step: int, skips: Skips) -> bool:
    """Whether the checkpoint of ``step`` is intact and was not gone back from."""
    checkpoint = step_prefix(plan.checkpoint_prefix, step)
    try:
        progress = load(store, f"{checkpoint}/state.json", Progress)
    except (CorruptError, NotFoundError):
        return False
    return progress.skips == skips.numbers_before(step) and is_intact(store, checkpoint)


def _check_possible(unfinished: Unfinished, mode: Mode) -> None:
    changed = [change.path for change in unfinished.changes]
    impossible = ["base.model"] if mode != "continue" else ["base.model", "recipe.seed"]
    odd = [path for path in changed if any(path.startswith(field) for field in impossible)]
    if odd:
        instead = "put it back" if odd[0].startswith("base") else "put it back, or take new-phase"
        raise ConfigurationChangedError(
            f"{', '.join(odd)} cannot change while update {unfinished.plan.id} goes on: its "
            f"weights, or the order of its samples, are made with the old value; {instead}, or "
            "discard it with 'perennial update --take-over nothing'"
        )


def _continued(
    _request: PlanRequest, today: UpdatePlan, begun: UpdatePlan, step: int, mode: Mode
) -> TrainPlan:
    """Everything counts on, in tokens: step, moments, order, schedule."""
    train, old = today.train, begun.train
    first_step = step * old.global_batch_samples // train.global_batch_samples
    if first_step >= train.num_steps:
        raise ConfigurationChangedError(
            f"update {begun.id} has trained on {step * old.global_batch_tokens:,} tokens, and the "
            f"budget asks for {train.num_steps * train.global_batch_tokens:,} in all: nothing is "
            "left to continue; raise the budget, or take it over as new-phase or weights-only"
        )
    trunk = None
    if train.trunk_step <= first_step:
        # The anneal has begun: the trunk is what the update had stored before it.
        checkpoint = step_prefix(old.checkpoint_prefix, step)
        trunk = old.trunk if old.trunk_step <= step else checkpoint
    return replace(
        train,
        initial=step_prefix(old.checkpoint_prefix, step),
        mixture=order_from(old, step, train, first_step),
        optimizer=replace(train.optimizer, moments="keep"),
        taken_over=TakenOver(
            update=begun.id, step=step, mode=mode, first_step=first_step, trunk=trunk
        ),
    )


def order_from(old: TrainPlan, step: int, train: TrainPlan, first_step: int) -> Mixture:
    """The mixture that goes on where ``old`` was after ``step``, no sample twice or left out.

    With the same shares and batch it is the same order. Otherwise today's shares are counted from
    here on, and each stream goes on with the sample that is next.
    """
    streams = [replace(stream, drawn_before=0) for stream in old.mixture.streams]
    is_same = (*streams,) == train.mixture.streams and old.mixture.seed == train.mixture.seed
    if is_same and old.global_batch_samples == train.global_batch_samples:
        return old.mixture
    counts = Order(old.mixture, old.global_batch_samples).counts_before(step).tolist()
    drawn = {
        stream.name: stream.drawn_before + count
        for stream, count in zip(old.mixture.streams, counts, strict=True)
    }
    return replace(
        train.mixture,
        streams=tuple(
            replace(stream, drawn_before=drawn.get(stream.name, 0))
            for stream in train.mixture.streams
        ),
        first_slot=first_step * train.global_batch_samples,
    )


def _begun_anew(
    request: PlanRequest, today: UpdatePlan, begun: UpdatePlan, step: int, mode: Mode
) -> TrainPlan:
    """Another update's length from the weights of the old one, in another order of samples."""
    train, recipe = today.train, request.recipe
    checkpoint = step_prefix(begun.train.checkpoint_prefix, step)
    schedule = resolve(recipe.schedule, total_tokens=train.num_steps * train.global_batch_tokens)
    seed = int(identity_of([train.mixture.seed, checkpoint])[:15], 16)
    moments = "reset" if mode == "weights_only" else recipe.optimizer.moments
    return replace(
        train,
        initial=checkpoint,
        mixture=replace(train.mixture, seed=seed),
        schedule=schedule,
        optimizer=replace(train.optimizer, moments=moments),
        trunk_step=trunk_step_of(schedule, recipe, train.num_steps),
        taken_over=TakenOver(update=begun.id, step=step, mode=mode, first_step=0),
    )
