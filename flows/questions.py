"""The open questions of a lineage in Prefect: one for each version that waits for a person.

They are a picture of the head, as MLflow is: made, asked anew and ended by ``settle_questions``,
which every command that changes a lineage calls, and ``perennial serve`` once a minute. Where no
``perennial serve`` offers the flow ``review-version`` there are none.
"""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Completed, Scheduled
from prefect.utilities.urls import url_for

from flows.form import head_asked_about
from infra.credentials import first_line_of
from storage.head import Head, VersionRecord, read_head
from storage.layout import Layout
from storage.objects import ObjectStore
from storage.question import Question, read_question, write_question
from tasks.reporting.page import decisions_of

if TYPE_CHECKING:
    from flows.ground import Ground

logger = logging.getLogger(__name__)

REVIEW = "review-version"
"""Name of the flow that asks."""
QUESTION = "question"
"""Tag of the runs that ask."""
DECIDED = "Decided"
"""Name of the state of a question that was decided elsewhere."""
JUDGED_AGAIN = "JudgedAgain"
"""Name of the state of a question that is about to be asked anew, with the new verdict."""
_PAGE = 200


def settle_questions(ground: "Ground") -> None:
    """Ask about what waits, and end what was decided elsewhere. Safe to repeat.

    That Prefect does not answer is told and stops nothing: the next call sees to it.
    """
    try:
        with get_client(sync_client=True) as client:
            _settle(client, ground.store, ground.layout)
    except Exception as error:  # whatever Prefect's client raises
        logger.warning(
            f"Prefect was not told what waits for a person ({first_line_of(error)}); 'perennial "
            "status' shows it, 'perennial promote' and 'reject' decide"
        )


def _settle(client: SyncPrefectClient, store: ObjectStore, layout: Layout) -> None:
    head = read_head(store, layout)
    deployment = _deployment(client, layout)
    if head is None or deployment is None:
        return
    suspended = FlowRunFilter(
        deployment_id=FlowRunFilterDeploymentId(any_=[deployment]),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.PAUSED])),
    )
    asked: set[str] = set()
    for run in client.read_flow_runs(flow_run_filter=suspended, limit=_PAGE):
        record = _asked_about(run, head.versions)
        if record is None:
            continue
        asked.add(record.version)
        _bring_up_to_date(client, store, layout, run, record)
    for record in head.versions:
        if record.decision == "awaiting" and record.version not in asked:
            _open(client, store, layout, record, deployment)


def _deployment(client: SyncPrefectClient, layout: Layout) -> UUID | None:
    try:
        return client.read_deployment_by_name(f"{REVIEW}/{layout.lineage}").id
    except ObjectNotFound:
        return None


def _asked_about(run: FlowRun, versions: Sequence[VersionRecord]) -> VersionRecord | None:
    name = run.parameters.get("version")
    named = (known for known in versions if name in (known.version, known.version.split("-")[0]))
    return next(named, None)


def _bring_up_to_date(
    client: SyncPrefectClient,
    store: ObjectStore,
    layout: Layout,
    run: FlowRun,
    record: VersionRecord,
) -> None:
    """End a question that is decided, and ask anew one that is about an earlier verdict."""
    details = run.state.state_details if run.state else None
    asked_about = head_asked_about(details.run_input_keyset if details else None)
    if asked_about == record.on_head and record.decision in ("awaiting", "refused"):
        # A refused one is asked about when a person had approved what was then judged again.
        return
    state: Any
    if record.decision == "awaiting":
        message = "judged again meanwhile; asks about the new verdict."
        state = Scheduled(name=JUDGED_AGAIN, message=message)
    else:
        state = Completed(name=DECIDED, message=told_decision(store, layout, record))
    logger.info(f"{run.name}: {state.name}: {state.message}")
    client.set_flow_run_state(run.id, state)


def told_decision(store: ObjectStore, layout: Layout, record: VersionRecord) -> str:
    """How a version was decided over, by whom and why."""
    last = decisions_of(store, layout)[record.version][-1]
    return (
        f"{record.version} is {record.decision.replace('_', ' ')} since head {last.head} "
        f"({last.action} by {last.by}, {last.written_at}): {record.reason}"
    )


def _open(
    client: SyncPrefectClient,
    store: ObjectStore,
    layout: Layout,
    record: VersionRecord,
    deployment: UUID,
) -> None:
    """Start the run that asks; that of an earlier call is found by its key."""
    run = client.create_flow_run_from_deployment(
        deployment,
        parameters={"version": record.version},
        tags=[QUESTION],
        idempotency_key=f"{QUESTION}/{deployment}/{record.version}",
    )
    question = Question(run=str(run.id), link=url_for("flow-run", obj_id=run.id) or "")
    write_question(store, layout, record.update, question)


def how_to_decide(ground: "Ground", record: VersionRecord) -> str:
    """Where and how a person decides over a version that waits."""
    question = read_question(ground.store, ground.layout, record.update)
    page = f"on {question.link} (button Resume), or by command: " if question else ""
    return f"a person decides: {page}perennial promote {record.version} --reason ..., or reject"


def waiting(head: Head | None) -> list[VersionRecord]:
    """The versions that wait for a person."""
    return [known for known in (head.versions if head else ()) if known.decision == "awaiting"]
