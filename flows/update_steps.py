"""The steps of ``update-model``: tasks of ``tasks/`` bound to the ground a flow runs on.

Each is a Prefect task with retries; none holds state of its own. What a step produced is in the
store, so a flow that is started again finds it.
"""

import logging
import sys
import threading
from dataclasses import asdict, dataclass
from typing import Any

from prefect.runtime import flow_run

from flows.drain import GO_ON, drained
from flows.ground import Ground, whoami
from flows.link import link_plan
from flows.mirror import (
    MirrorError,
    close_relay,
    curve_receiver,
    is_shown,
    show_head,
)
from flows.orphan import end_with_runner
from flows.outcome import Kind, Outcome
from flows.plan_view import view_of
from flows.schedule import WhenBusy
from flows.steps import step
from infra.stack.status import require
from storage.errors import LeaseHeldError
from storage.head import Head, read_head
from storage.lease import Lease
from storage.snapshots import read_snapshot_manifest
from storage.takedowns import check_no_takedown
from tasks.decontamination.current import check_current
from tasks.expose import record_exposures
from tasks.publish import ExtendReplay, replay_extender
from tasks.refresh_request import RefreshResult
from tasks.rejects import rejects_of
from tasks.take_over import begin
from tasks.train import MetricRelay
from tasks.train import train as train_plan
from tasks.update_plan import UpdatePlan
from training.errors import TrainingStoppedError
from training.goodput import settle

logger = logging.getLogger(__name__)

LEASE_SECONDS = 60.0
"""How long the lease of a holder that was cut off keeps others waiting."""


def take_lease(
    ground: Ground,
    *,
    when_busy: WhenBusy = "wait",
    wait_seconds: float = 0.0,
    to_forget: bool = False,
) -> Lease | Outcome:
    """One update a lineage at a time: the lease, or what a run that skips its turn ends with.

    ``to_forget``: the run takes documents down, and finishes what of that was begun; no other run
    works while documents are half taken down.

    Raises:
        LeaseHeldError: Another run works on the lineage, and has not ended within the wait.
        ValueError: A takedown was begun and is not done.
    """
    end_with_runner()
    wait_seconds = 0.0 if when_busy == "skip" else wait_seconds
    if (flow_run.run_count or 0) > 1:
        # The holder may be an earlier attempt of this very run, which died on another machine.
        wait_seconds = max(wait_seconds, 2 * LEASE_SECONDS)
    try:
        lease = Lease.acquire(
            ground.store,
            ground.layout,
            whoami(),
            ttl_seconds=LEASE_SECONDS,
            wait_seconds=wait_seconds,
        )
    except LeaseHeldError as error:
        if when_busy == "skip":
            return outcome(ground, None, "skipped", str(error))
        raise
    if not to_forget:
        try:
            check_no_takedown(ground.store, ground.layout)
        except ValueError:
            lease.release()
            raise
    return lease


@dataclass(frozen=True, slots=True)
class Stopped:
    """The training was asked to stop; a value, for it is no failure of its step."""

    message: str


def tell_plan(ground: Ground, plan: UpdatePlan, refreshed: RefreshResult) -> None:
    """Say in the log what will be trained, before it is; a dry run ends with the same."""
    logger.info(f"refresh: {refreshed.reason}")
    view = view_of(ground, plan, sys.stderr)
    for line in (*view.lines, *view.chart):
        logger.info(line)
    link_plan(ground, plan, view)


@step
def train(
    ground: Ground, lease: Lease, plan: UpdatePlan, *, on_behalf_of: str = ""
) -> str | Stopped:
    """Train on Ray and wait; returns the prefix of the final checkpoint.

    ``on_behalf_of`` is the update that this one repairs, which is then the one to go on with.
    SIGTERM ends it after the step that it is in, with a checkpoint; a second one ends it at once.
    """
    if ground.lineage.compute.num_workers and not ground.settings.ray_address:
        require(ground.settings, "ray-head")
    head = read_head(ground.store, ground.layout)
    assert head is not None  # a plan is made from one
    check_current(ground.store, ground.layout, head, plan.snapshots)
    begin(ground.store, ground.layout, plan)
    # The next holder of the lease finds this update should we die.
    lease.set_note(plan.id, unfinished=on_behalf_of or plan.id)
    relay = MetricRelay(lambda: curve_receiver(ground, plan))

    def run(sigterm: threading.Event) -> str | Stopped:
        try:
            return train_plan(
                plan.train,
                store_uri=ground.settings.store_uri,
                compute=ground.lineage.compute,
                work_dir=ground.work_dir,
                ray_address=ground.settings.ray_cluster,
                on_metrics=relay,
                is_asked_to_stop=sigterm.is_set,
            )
        except TrainingStoppedError as stopped:
            return Stopped(str(stopped))

    try:
        trained = drained(run)
    finally:
        close_relay(relay)
    if isinstance(trained, Stopped):
        return trained
    record_exposures(ground.store, ground.layout, plan.train, work_dir=ground.work_dir)
    account = settle(ground.store, ground.layout, plan.id)
    if account is not None:
        logger.info(account.in_words())
    return trained


@step
def show_in_mlflow(ground: Ground, *, repair: bool = True) -> Head | None:
    """Make MLflow show what the head says; returns the head.

    Without ``repair`` only if the head has something that MLflow was not shown yet: what was
    edited in MLflow itself stays as it is until the next command that changes something. That
    MLflow cannot be told is no failure of the flow: what it did is committed, and the next command
    tells it.
    """
    head = read_head(ground.store, ground.layout)
    if head is not None and head.versions:
        try:
            show_head(ground, head, repair=repair)
        except MirrorError as error:
            logger.warning(str(error))
    return head


def outcome(ground: Ground, head: Head | None, kind: Kind, message: str, **more: Any) -> Outcome:
    """The end of a flow run in this lineage."""
    if head is not None and head.versions and not is_shown(ground, head):
        message = f"{message}\nMLflow does not show this yet: the next command tells it again"
    return Outcome(
        lineage=ground.lineage.name,
        kind=kind,
        message=message,
        head=head.number if head else None,
        **more,
    )


def data_warnings(ground: Ground, plan: UpdatePlan, refreshed: RefreshResult) -> tuple[str, ...]:
    """What a person should know of the data of an update, also of what was read before."""
    rejects = (
        rejects_of(
            ground.store,
            ground.layout,
            read_snapshot_manifest(ground.store, ground.layout, snapshot),
        )
        for snapshot in plan.snapshots
    )
    return tuple(dict.fromkeys((*refreshed.warnings, *(told for told in rejects if told))))


def planned(ground: Ground, plan: UpdatePlan, warnings: tuple[str, ...] = ()) -> Outcome:
    """What a dry run ends with."""
    head = read_head(ground.store, ground.layout)
    view = view_of(ground, plan, sys.stdout)
    link_plan(ground, plan, view)
    return outcome(
        ground,
        head,
        "planned",
        "\n".join(view.lines),
        chart="\n".join(view.chart),
        version=plan.version,
        details={"plan": asdict(plan)},
        warnings=warnings,
    )


def checkpoint_of(trained: str | Stopped) -> str:
    """The final checkpoint that ``train`` has returned.

    Raises:
        TrainingStoppedError: There is none yet.
    """
    if isinstance(trained, Stopped):
        raise TrainingStoppedError(trained.message)
    return trained


def stopped(ground: Ground, reason: str) -> Outcome:
    """What an update ends with that was asked to."""
    return outcome(ground, None, "stopped", f"{reason}\n{GO_ON}")


def extend_replay(ground: Ground) -> ExtendReplay:
    """How publishing fills this lineage's replay buffer."""
    return replay_extender(
        ground.store,
        ground.layout,
        budget_tokens=ground.lineage.replay.budget_tokens,
        seq_len=ground.lineage.recipe.seq_len,
    )
