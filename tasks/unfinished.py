"""The update that an earlier run began and did not bring to a verdict: go on, refuse, take over."""

import logging
from typing import Literal

from storage.head import Head
from storage.layout import Layout
from storage.objects import ObjectStore
from storage.snapshots import read_snapshot
from tasks.plan import PlanRequest, make_plan, plan_of
from tasks.plan_changes import ConfigurationChangedError, Unfinished, changes_between
from tasks.take_over import Mode, take_over, taken_over_plan
from tasks.update_plan import UpdatePlan, is_saved, load_plan
from training.checkpoint.index import committed_steps

logger = logging.getLogger(__name__)

TakeOver = Literal["refuse", "continue", "new-phase", "weights-only", "nothing"]
"""What becomes of an unfinished update whose configuration was changed meanwhile."""
_MODES: dict[TakeOver, Mode] = {
    "continue": "continue",
    "new-phase": "new_phase",
    "weights-only": "weights_only",
}


def resumed_plan(
    store: ObjectStore,
    layout: Layout,
    head: Head,
    request: PlanRequest,
    update: str,
    choice: TakeOver = "refuse",
) -> UpdatePlan | None:
    """The plan that goes on from an unfinished update; None when the next one is planned anew.

    Without changes it is the update's own, whatever ``choice`` says, so that a run that is started
    again with the same parameters goes on with what its first attempt took over.

    Args:
        store: Where the lineage lies.
        layout: Of the lineage.
        head: The newest.
        request: Today's configuration.
        update: What was begun and not finished; empty when nothing was.
        choice: What to do when the configuration was changed.

    Raises:
        ConfigurationChangedError: It was changed, and ``choice`` is to refuse that or cannot be
            followed; names the fields.
    """
    unfinished = find_unfinished(store, layout, head, request, update)
    if unfinished is None:
        return None
    if not unfinished.changes:
        logger.info(f"going on with update {unfinished.plan.id}, which was left unfinished")
        return unfinished.plan
    if unfinished.step == 0:
        logger.info(f"update {unfinished.plan.id} was left before its first checkpoint")
        return None
    if choice == "refuse":
        raise ConfigurationChangedError(unfinished.refusal())
    if choice == "nothing":
        logger.info(f"update {unfinished.plan.id} is discarded; planning anew")
        return None
    return take_over(store, layout, head, request, unfinished, _MODES[choice])


def find_unfinished(
    store: ObjectStore, layout: Layout, head: Head, request: PlanRequest, update: str
) -> Unfinished | None:
    """The unfinished update, how far it came, and what was changed since; None when there is none.

    One that was to be taken over itself, and has no checkpoint yet, counts for the one behind it.

    Raises:
        ValueError: Today's configuration does not fit the lineage.
    """
    while update and is_saved(store, layout, update):
        plan = load_plan(store, layout, update)
        if not _still_applies(head, plan):
            return None
        wanted = _wanted_today(store, layout, head, request, plan)
        changes = changes_between(plan, wanted, request)
        step = newest_step(store, plan)
        origin = plan.train.taken_over
        if not changes or step > 0 or origin is None or origin.is_published:
            return Unfinished(plan, step, changes)
        update = origin.update
    return None


def interrupted(
    store: ObjectStore, layout: Layout, head: Head, request: PlanRequest, update: str
) -> Unfinished | None:
    """The update that was begun and that the next run will go on with, or refuse to, if any.

    Raises:
        ValueError: Today's configuration does not fit the lineage.
    """
    unfinished = find_unfinished(store, layout, head, request, update)
    if unfinished is not None and (unfinished.step > 0 or not unfinished.changes):
        return unfinished
    plan = make_plan(store, layout, head, request)
    if isinstance(plan, UpdatePlan) and is_saved(store, layout, plan.id):
        return Unfinished(plan, newest_step(store, plan), ())
    return None


def newest_step(store: ObjectStore, plan: UpdatePlan) -> int:
    """Step of the update's newest committed checkpoint, 0 when it has none."""
    return next(iter(committed_steps(store, plan.train.checkpoint_prefix)), 0)


def _still_applies(head: Head, plan: UpdatePlan) -> bool:
    """Whether nothing moved under the update, and nobody judged it."""
    states = {record.id: record.state for record in head.snapshots}
    is_judged = any(record.update == plan.id for record in head.versions)
    return (
        not is_judged
        and plan.champion == head.champion
        and plan.trunk == head.trunk
        and all(states.get(snapshot) == "pending" for snapshot in plan.snapshots)
    )


def _wanted_today(
    store: ObjectStore, layout: Layout, head: Head, request: PlanRequest, plan: UpdatePlan
) -> UpdatePlan:
    """What today's configuration asks for of the snapshots, and the start, of a stored plan.

    A branch asks for nothing of today's configuration: it is what its update was.
    """
    origin = plan.train.taken_over
    pending = [read_snapshot(store, layout, snapshot) for snapshot in plan.snapshots]
    if origin is None:
        return plan_of(store, layout, head, request, pending, plan.new_tokens)
    if origin.mode == "branch":
        return plan
    begun = load_plan(store, layout, origin.update)
    return taken_over_plan(store, layout, head, request, begun, origin.step, origin.mode, pending)
