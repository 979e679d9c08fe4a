"""Which flow can be started for which lineage from Prefect's pages, when, and with what.

A deployment is called ``<flow>/<lineage>``. Its form is made from the flow's signature and
docstring; Prefect's server refuses values that do not fit.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from prefect import Flow
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.client.schemas.schedules import CronSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.types.entrypoint import EntrypointType
from pydantic import WithJsonSchema

from flows.forget import forget_documents
from flows.lineage import Lineage
from flows.refresh import refresh_data
from flows.review import (
    check_model,
    promote_version,
    reject_version,
    review_version,
    rollback_lineage,
    unhold_snapshot,
)
from flows.schedule import TimetableConfig, WhenBusy
from flows.update import update_model
from infra.versions import code_version

TAG = "perennial"
"""On everything of ours in Prefect."""

TIMETABLE = "timetable"
"""Slug of the schedule that comes from a lineage's YAML."""

WORKING: tuple[Flow[Any, Any], ...] = (update_model, refresh_data)
"""Hold the lineage's lease, and wait for it."""
DECIDING: tuple[Flow[Any, Any], ...] = (
    check_model,
    review_version,
    promote_version,
    reject_version,
    rollback_lineage,
    unhold_snapshot,
    forget_documents,
)
"""What people do; all but the last in seconds."""


@dataclass(frozen=True, slots=True)
class Served:
    """A lineage and the YAML that it came from."""

    file: Path
    lineage: Lineage


def deployments_of(served: Served, files: Sequence[Path]) -> list[RunnerDeployment]:
    """Every flow for one lineage; ``files`` are the choices in the form, its own is the default."""
    return [_deployment(flow, served, files) for flow in (*WORKING, *DECIDING)]


def _deployment(flow: Flow[Any, Any], served: Served, files: Sequence[Path]) -> RunnerDeployment:
    lineage, timetable = served.lineage, served.lineage.schedule
    parameters: dict[str, Any] = {"lineage_file": str(served.file)}
    if flow in WORKING:
        parameters |= {"when_busy": timetable.when_busy, "wait_seconds": timetable.wait_seconds}
    return RunnerDeployment.from_flow(
        _with_choices(flow, files),
        name=lineage.name,
        description=_description(flow, lineage),
        tags=[TAG, f"lineage:{lineage.name}"],
        version=code_version(),
        parameters=parameters,
        schedules=_schedules(timetable) if flow is update_model else [],
        concurrency_limit=_limit(timetable.when_busy if flow in WORKING else "wait"),
        entrypoint_type=EntrypointType.MODULE_PATH,
    )


def _with_choices(flow: Flow[Any, Any], files: Sequence[Path]) -> Flow[Any, Any]:
    """``flow``, whose form offers ``files`` to choose from."""
    narrowed = flow.with_options()
    signature = inspect.signature(flow.fn)
    # An enum even of one: pydantic's own schema would say const, and Prefect's form offer nothing.
    enum = {"type": "string", "enum": [str(file) for file in files]}
    choices = Annotated[str, WithJsonSchema(enum)]
    parameters = [
        parameter.replace(annotation=choices) if name == "lineage_file" else parameter
        for name, parameter in signature.parameters.items()
    ]
    narrowed.__signature__ = signature.replace(parameters=parameters)  # pyright: ignore[reportAttributeAccessIssue]
    return narrowed


def _schedules(timetable: TimetableConfig) -> list[DeploymentScheduleCreate]:
    if timetable.cron is None or not timetable.enabled:
        return []
    schedule = CronSchedule(cron=timetable.cron, timezone=timetable.timezone)
    # The slug lets a new registration find the schedule again, and leave the switch of Prefect's
    # pages as a person has set it.
    return [DeploymentScheduleCreate(schedule=schedule, slug=TIMETABLE)]


def _limit(when_busy: WhenBusy) -> ConcurrencyLimitConfig:
    """One run a deployment at a time, so that who waits needs no process.

    That two deployments of one lineage do not work at once is the lease's to see to.
    """
    strategies: dict[WhenBusy, ConcurrencyLimitStrategy] = {
        "wait": ConcurrencyLimitStrategy.ENQUEUE,
        "skip": ConcurrencyLimitStrategy.CANCEL_NEW,
    }
    return ConcurrencyLimitConfig(limit=1, collision_strategy=strategies[when_busy])


def _description(flow: Flow[Any, Any], lineage: Lineage) -> str:
    """What the page of the deployment says above everything else."""
    text = inspect.cleandoc(flow.fn.__doc__ or "").partition("\n\nArgs:")[0]
    sources = ", ".join(source.name for source in lineage.sources)
    return f"{text}\n\nLineage **{lineage.name}**, sources: {sources}."
