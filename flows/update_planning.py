"""Which update comes next: one that was left unfinished, a branch, or what the data asks for."""

from dataclasses import dataclass
from typing import Annotated

from flows.ground import Ground, plan_request, whoami
from flows.steps import step
from infra.bounds import Bounds
from storage.head import Head, read_head
from storage.lease import Lease
from tasks.branch import branch_plan
from tasks.plan import NothingToDo, held_under_another_recipe, make_plan
from tasks.review import unhold
from tasks.scoring.outlook import with_outlook
from tasks.unfinished import TakeOver, resumed_plan
from tasks.update_plan import UpdatePlan, is_saved

CooldownTokens = Annotated[int | None, Bounds(gt=0, le=10**15, unit="tokens")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a person asks of one run, beside the lineage's YAML."""

    take_over: TakeOver = "refuse"
    branch_from: str | None = None
    """``<update>/step-<n>``."""
    cooldown_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.cooldown_tokens is not None and not self.branch_from:
            raise ValueError(
                "cooldown_tokens is the length of a branch: name its checkpoint with "
                "--branch-from <update>/step-<n>, or leave --cooldown-tokens out"
            )
        if self.branch_from and self.take_over != "refuse":
            raise ValueError(
                "a run either branches from a checkpoint or takes over an unfinished update: "
                "leave --branch-from or --take-over out"
            )


@step
def plan_update(
    ground: Ground, lease: Lease, wish: Wish, *, dry_run: bool = False
) -> UpdatePlan | NothingToDo:
    """The next update: a branch that was asked for, one left unfinished, or the pending data's.

    Raises:
        ConfigurationChangedError: One was left unfinished under another configuration.
    """
    store, layout = ground.store, ground.layout
    head = read_head(store, layout)
    if head is None:
        return NothingToDo("no data yet")
    plan = _next(ground, lease, wish, head, dry_run=dry_run)
    # One that was begun keeps what was told of it then.
    if isinstance(plan, NothingToDo) or is_saved(store, layout, plan.id):
        return plan
    check, work_dir = ground.lineage.check, ground.work_dir
    return with_outlook(store, layout, head, plan, check, work_dir=work_dir, keep=not dry_run)


def _next(
    ground: Ground, lease: Lease, wish: Wish, head: Head, *, dry_run: bool
) -> UpdatePlan | NothingToDo:
    store, layout = ground.store, ground.layout
    if wish.branch_from:
        return branch_plan(store, layout, head, wish.branch_from, wish.cooldown_tokens)
    request = plan_request(ground)
    plan = resumed_plan(store, layout, head, request, lease.unfinished, wish.take_over)
    if plan is not None:
        return plan
    held = held_under_another_recipe(store, layout, head, request)
    for snapshot in held if not dry_run else ():
        reason = "the recipe changed since the rollback"
        head = unhold(store, layout, snapshot, by=whoami(), reason=reason).head
    return make_plan(store, layout, head, request)
