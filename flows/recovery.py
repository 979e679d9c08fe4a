"""Runs that crashed go on by themselves, a bounded number of times.

The rules are in ``next_state``, ``refusal`` and ``end_of_stuck``, which are pure; ``recover``
applies them to what Prefect's server has. Every run of ours is safe to start again: an update goes
on from its newest checkpoint, what is finished is found, and the lease keeps a process that was cut
off from doing harm.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterId,
    FlowRunFilterStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.states import Cancelled, Crashed, Failed, Scheduled, Suspended

from flows.questions import QUESTION

logger = logging.getLogger(__name__)

RESUMING = "Resuming"
"""Name of the state of a run that crashed and is about to go on."""
INTERRUPTED = "Interrupted"
"""Name of the state of a run that ``perennial serve`` took with it when it was stopped."""
RETRIED = "AwaitingRetry"
"""Name of the state of a run that a person retries."""

RESUMPTIONS = 3
"""Of one run within a day; what crashes more often needs a person."""
_DELAYS = (timedelta(0), timedelta(seconds=30), timedelta(minutes=2))
_DAY = timedelta(days=1)
_STUCK = {StateType.PENDING: timedelta(minutes=5), StateType.CANCELLING: timedelta(minutes=2)}
"""Longer than this nobody needs from one state to the next, unless its runner has died."""
_PAGE = 50


def next_state(history: Sequence[State], now: datetime) -> State:
    """What a crashed run with this history of states, oldest first, is to become."""
    before = history[-2] if len(history) > 1 else history[-1]
    if before.type is StateType.PAUSED:
        return _as_it_was(before)
    resumptions = _resumptions(history, now)
    reason = (history[-1].message or "no reason told").strip()
    if resumptions >= RESUMPTIONS:
        return Failed(
            message=f"crashed {resumptions + 1} times within a day, the last time: {reason} Mend "
            "the cause, then press Retry: the run goes on from the newest checkpoint."
        )
    return Scheduled(
        name=RESUMING,
        scheduled_time=now + _DELAYS[resumptions],
        message=f"crashed: {reason} Goes on from the newest checkpoint, by itself "
        f"({resumptions + 1} of at most {RESUMPTIONS} times a day).",
    )


def refusal(parameters: Collection[str], form: Mapping[str, Any]) -> State | None:
    """How a run ends whose parameters its flow does not have; None when it has them all.

    Prefect's server lets such a run in: its schemas cannot say that there are no other parameters.
    The run dies before it begins, however often it is started.

    Args:
        parameters: Names that the run was asked for with.
        form: The deployment's schema of parameters.
    """
    unknown = sorted(set(parameters) - set(form.get("properties", {})))
    if not unknown:
        return None
    known = ", ".join(sorted(form.get("properties", {})))
    return Failed(
        message=f"parameters must be of {known}; found {', '.join(unknown)} as well: start another "
        "run without them."
    )


def end_of_stuck(state: State, now: datetime) -> State | None:
    """How a run ends that has stood between two states for too long; None when it has not."""
    longest = _STUCK.get(state.type)
    if longest is None or now - state.timestamp < longest:
        return None
    end = Crashed if state.type is StateType.PENDING else Cancelled
    return end(message="its runner died meanwhile.")


def _as_it_was(suspended: State) -> State:
    """A question again: its process had ended as it should.

    A sign of life that was sent while it ended, or a server that was killed before it kept the last
    one, has the rule of ``flows.automations`` mark a suspended run as crashed.
    """
    state: State = Suspended(message=suspended.message, pause_key=str(uuid4()))
    state.state_details.run_input_keyset = suspended.state_details.run_input_keyset
    return state


def _resumptions(history: Sequence[State], now: datetime) -> int:
    """How often the run went on by itself, since a person retried or answered it, within a day."""
    count = 0
    for state in reversed(history):
        is_answered = state.type is StateType.PAUSED
        if state.name == RETRIED or is_answered or now - state.timestamp > _DAY:
            break
        count += state.name == RESUMING
    return count


async def recover(
    client: PrefectClient, deployments: Collection[UUID], mine: Collection[UUID], now: datetime
) -> None:
    """Resume what crashed, and end what hangs between two states without a process.

    Args:
        client: Of the server.
        deployments: Those whose runs are looked after.
        mine: Runs that this process executes right now, which are left alone.
        now: The time.
    """
    if not deployments:
        return
    for run in await runs_in(client, deployments, StateType.CRASHED):
        if run.id not in mine and not await _is_superseded(client, run):
            await _move(client, run, await _after_crash(client, run, now))
    for kind in _STUCK:
        for run in await runs_in(client, deployments, kind):
            if run.id not in mine and run.state and (end := end_of_stuck(run.state, now)):
                await _move(client, run, end)


async def interrupt(client: PrefectClient, runs: Collection[UUID]) -> None:
    """Let runs that were stopped with their runner go on when the next one starts."""
    for run_id in runs:
        run = await client.read_flow_run(run_id)
        if run.state is not None and run.state.is_crashed():
            message = "'perennial serve' was stopped; goes on when it is started again."
            await _move(client, run, Scheduled(name=INTERRUPTED, message=message))


async def runs_in(
    client: PrefectClient, deployments: Collection[UUID], kind: StateType
) -> list[FlowRun]:
    """The newest runs of deployments that are in one type of state."""
    return await client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            deployment_id=FlowRunFilterDeploymentId(any_=list(deployments)),
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[kind])),
        ),
        sort=FlowRunSort.START_TIME_DESC,
        limit=_PAGE,
    )


async def _after_crash(client: PrefectClient, run: FlowRun, now: datetime) -> State:
    assert run.deployment_id is not None  # the run was found by its deployment
    deployment = await client.read_deployment(run.deployment_id)
    refused = refusal(run.parameters, deployment.parameter_openapi_schema or {})
    return refused or next_state(await client.read_flow_run_states(run.id), now)


async def _is_superseded(client: PrefectClient, run: FlowRun) -> bool:
    """Whether a later run of the same deployment has started: it took over what was unfinished.

    Not one that asks a person: each is about another version.
    """
    if QUESTION in run.tags:
        return False
    assert run.state is not None  # the run was found by its state
    assert run.deployment_id is not None  # and by its deployment
    crashed_at = run.state.timestamp
    later = FlowRunFilter(
        # One that crashed before it ran counts as started when it crashed.
        id=FlowRunFilterId(not_any_=[run.id]),
        deployment_id=FlowRunFilterDeploymentId(any_=[run.deployment_id]),
        # Without is_null_, runs that a timetable has planned for other days count as started.
        start_time=FlowRunFilterStartTime.model_validate({"after_": crashed_at, "is_null_": False}),
    )
    return await client.count_flow_runs(flow_run_filter=later) > 0


async def _move(client: PrefectClient, run: FlowRun, state: State) -> None:
    logger.info(f"{run.name}: {state.name}: {state.message}")
    # Prefect suspends what runs only; this run is as suspended as before.
    await client.set_flow_run_state(run.id, state, force=state.type is StateType.PAUSED)
