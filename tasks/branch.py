"""A cool-down from any checkpoint: the decay alone, on the update's own batches from there on.

The candidate is judged and published like any other. What the next update continues from is the
branch point, which was not annealed, and not the end of the branch (docs/design.md, 5a).
"""

import math
from dataclasses import replace

from storage.errors import NotFoundError
from storage.head import Head
from storage.layout import Layout
from storage.manifest import identity_of
from storage.objects import ObjectStore
from tasks.plan import NothingToDo, judged_as
from tasks.take_over import is_usable, renamed
from tasks.update_plan import UpdatePlan, is_saved, load_plan
from training.checkpoint.index import committed_steps, step_prefix
from training.config import TakenOver, TrainPlan
from training.guard.skips import read_skips
from training.release import Release
from training.schedule import cool_down


def branch_plan(
    store: ObjectStore,
    layout: Layout,
    head: Head,
    point: str,
    cooldown_tokens: int | None = None,
) -> UpdatePlan | NothingToDo:
    """The plan of a branch. Reads the store, writes nothing; the same for the same arguments.

    Args:
        store: Where the lineage lies.
        layout: Of the lineage.
        head: The newest.
        point: ``<update>/step-<n>``.
        cooldown_tokens: Length of the decay, rounded up to whole steps; None: the share of the
            update's tokens that its recipe's ``schedule.decay_fraction`` names.

    Raises:
        ValueError: There is no such update, no such checkpoint, which names those there are, or
            the lineage has learned since what the branch would not know.
    """
    update, step = _parsed(point)
    begun = _begun(store, layout, update)
    _check_nothing_lost(layout, head, begun)
    _check_usable(store, begun.train, step)
    old, schedule = begun.train, begun.recipe.schedule
    tokens = cooldown_tokens or round(schedule.decay_fraction * begun.total_tokens)
    steps = max(1, math.ceil(tokens / old.global_batch_tokens))
    decay = cool_down(
        old.schedule,
        branch_tokens=step * old.global_batch_tokens,
        decay_tokens=steps * old.global_batch_tokens,
        eta_min=schedule.eta_max * schedule.eta_min_ratio,
    )
    checkpoint = step_prefix(old.checkpoint_prefix, step)
    train = replace(
        old,
        initial=checkpoint,
        schedule=decay,
        optimizer=replace(old.optimizer, moments="keep"),
        num_steps=step + steps,
        trunk_step=step + steps,
        # An average takes the place of the decay, which is what a cool-down is.
        release=Release(),
        taken_over=TakenOver(
            update=update,
            step=step,
            mode="branch",
            first_step=step,
            trunk=checkpoint,
            is_published=any(
                record.update == update and record.decision == "published"
                for record in head.versions
            ),
        ),
    )
    states = {record.id: record.state for record in head.snapshots}
    today = replace(
        begun,
        # The same branch again, of the same length and against the same champion, is the same one.
        id=identity_of([begun.id, steps, head.champion, head.suite]),
        version=f"{len(head.versions) + 1}-",
        champion=head.champion,
        trunk=head.trunk,
        snapshots=tuple(name for name in begun.snapshots if states.get(name) == "pending"),
        suite=head.suite or "",
        judged_on=begun.new_snapshots,
    )
    plan = renamed(layout, today, train)
    judged = judged_as(head, plan.id)
    if judged is not None:
        return NothingToDo(
            f"this branch was already judged: version {judged.version} is {judged.verdict} "
            f"({judged.decision}); choose another checkpoint or another --cooldown-tokens"
        )
    return load_plan(store, layout, plan.id) if is_saved(store, layout, plan.id) else plan


def _parsed(point: str) -> tuple[str, int]:
    update, _, folder = point.strip("/").partition("/")
    step = folder.removeprefix("step-")
    if not update or not step.isdecimal():
        raise ValueError(
            f"--branch-from must be <update>/step-<n>, such as 0123456789abcdef/step-400, got "
            f"{point!r}; the report of a version, and 'perennial status', name updates"
        )
    return update, int(step)


def _begun(store: ObjectStore, layout: Layout, update: str) -> UpdatePlan:
    try:
        return load_plan(store, layout, update)
    except NotFoundError as error:
        raise ValueError(
            f"lineage {layout.lineage} has no update {update} to branch from: use the id that the "
            "report of a version, or 'perennial status', names"
        ) from error


def _check_nothing_lost(layout: Layout, head: Head, begun: UpdatePlan) -> None:
    """Refuse a branch that would take back what was learned since, or train on held data."""
    is_trunk = head.trunk is not None and layout.checkpoint_of(head.trunk)[0] == begun.id
    allowed = ("pending", "learned") if is_trunk else ("pending",)
    begins_here = is_trunk or (begun.champion, begun.trunk) == (head.champion, head.trunk)
    for record in head.snapshots if begins_here else ():
        if record.id in begun.new_snapshots and record.state not in allowed:
            raise ValueError(
                f"update {begun.id} was trained on snapshot {record.id}, which is {record.state}: "
                f"'perennial unhold {record.id}' first, or branch from another update"
            )
    if begins_here:
        return
    raise ValueError(
        f"update {begun.id} began when champion was {begun.champion or '(none)'}, and the lineage "
        f"has moved on to {head.champion or '(none)'}: a branch from it would not know what was "
        "learned since; 'perennial rollback' to its version first"
    )


def _check_usable(store: ObjectStore, plan: TrainPlan, step: int) -> None:
    skips = read_skips(store, plan)
    steps = sorted(committed_steps(store, plan.checkpoint_prefix))
    if step in steps and is_usable(store, plan, step, skips):
        return
    what = "no intact checkpoint" if step in steps else "no checkpoint"
    others = ", ".join(f"step-{other}" for other in steps if other != step) or "none"
    raise ValueError(
        f"update {plan.update} has {what} of step {step:,} to branch from; there are {others} "
        "(compute.checkpoints.permanent_every_steps keeps more)"
    )
