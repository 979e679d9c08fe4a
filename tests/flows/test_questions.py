"""Open questions in Prefect are a picture of the head."""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound
from prefect.input.run_input import keyset_from_base_key
from prefect.states import Cancelled, Crashed, Running, Suspended

from flows.deployments import Served, deployments_of
from flows.ground import Ground
from flows.lineage_yaml import load_lineage
from flows.questions import QUESTION, settle_questions, waiting
from flows.recovery import recover
from infra.settings import Settings
from storage.head import Head, commit_change
from storage.judging_again import to_judge_again
from storage.local_objects import LocalObjects
from storage.objects import ObjectStore
from storage.question import read_question
from storage.transitions import promote, reject, with_verdict
from tests.support.lineages import LAYOUT, add_snapshot, candidate, newest
from tests.support.tiny_lineage import TinyLineage


@pytest.fixture
def ground(prefect_server: str, tmp_path: Path) -> Iterator[Ground]:
    """A lineage whose flows are offered by a Prefect server, with two versions that wait."""
    lineage = TinyLineage(tmp_path / "lineage")
    lineage.write(name="demo")
    served = Served(lineage.file, load_lineage(lineage.file))
    [review] = [
        made
        for made in deployments_of(served, [lineage.file])
        if made.flow_name == "review-version"
    ]
    deployment = asyncio.run(review.aapply())
    store = LocalObjects(tmp_path / "store")
    for number, verdict in enumerate(("PASS", "AMBIGUOUS", "AMBIGUOUS"), start=1):
        add_snapshot(store, number)
        record = candidate(newest(store), verdict)
        change(store, lambda head, r=record: with_verdict(head, r, replay="replay", by="test"))
    yield Ground(served.lineage, Settings(), store, LAYOUT)
    with get_client(sync_client=True) as client, contextlib.suppress(ObjectNotFound):
        client.delete_deployment(deployment)


def change(store: ObjectStore, make: Any) -> Head:
    return commit_change(store, LAYOUT, make)


@pytest.fixture
def client(ground: Ground) -> Any:
    with get_client(sync_client=True) as client:
        yield client


def asked(client: SyncPrefectClient, ground: Ground) -> dict[str, FlowRun]:
    """The question about each version that waits."""
    runs: dict[str, FlowRun] = {}
    for record in waiting(newest(ground.store)):
        question = read_question(ground.store, LAYOUT, record.update)
        assert question is not None
        runs[record.version] = client.read_flow_run(UUID(question.run))
        assert question.link.endswith(f"/runs/flow-run/{question.run}")
    return runs


def suspend(client: SyncPrefectClient, run: FlowRun, head: int) -> None:
    """What the flow does to its run, which nobody executes here."""
    client.set_flow_run_state(run.id, Running(), force=True)
    state: Any = Suspended(pause_key="x")
    state.state_details.run_input_keyset = keyset_from_base_key(f"suspended-head-{head}-0")
    client.set_flow_run_state(run.id, state, force=True)


def state_of(client: SyncPrefectClient, run: FlowRun) -> tuple[str, str]:
    state = client.read_flow_run(run.id).state
    assert state is not None
    return state.type.value, str(state.name)


def test_each_waiting_version_is_asked_about_once(client: Any, ground: Ground) -> None:
    settle_questions(ground)
    first = asked(client, ground)
    assert [run.parameters["version"] for run in first.values()] == list(first)
    assert all(QUESTION in run.tags for run in first.values())
    settle_questions(ground)
    assert {run.id for run in asked(client, ground).values()} == {run.id for run in first.values()}
    # A person who cancels a question is not asked again.
    cancelled = next(iter(first.values()))
    client.set_flow_run_state(cancelled.id, Cancelled(), force=True)
    settle_questions(ground)
    assert state_of(client, cancelled) == ("CANCELLED", "Cancelled")


def test_what_was_decided_elsewhere_is_asked_no_more(client: Any, ground: Ground) -> None:
    settle_questions(ground)
    second, third = asked(client, ground).values()
    for record, run in zip(waiting(newest(ground.store)), (second, third), strict=True):
        suspend(client, run, record.on_head)
    settle_questions(ground)
    assert state_of(client, second) == state_of(client, third) == ("PAUSED", "Suspended")
    version = str(second.parameters["version"])
    change(ground.store, lambda head: reject(head, version, by="ann", reason="too late"))
    settle_questions(ground)
    assert state_of(client, second) == ("COMPLETED", "Decided")
    told = client.read_flow_run(second.id).state.message
    assert told.startswith(f"{version} is rejected since head ")
    assert "by ann" in told
    assert told.endswith(": too late")
    assert state_of(client, third) == ("PAUSED", "Suspended")


def test_a_new_verdict_is_asked_about_anew_and_a_refusal_only_by_who_approved(
    client: Any, ground: Ground
) -> None:
    settle_questions(ground)
    second, third = asked(client, ground).values()
    suspend(client, third, newest(ground.store).versions[2].on_head)
    promoted = str(second.parameters["version"])
    change(ground.store, lambda h: promote(h, promoted, replay="replay-2", by="ann", reason="good"))
    settle_questions(ground)
    # The verdict is about a former champion, and the only one there is.
    assert state_of(client, third) == ("PAUSED", "Suspended")

    judged_again(ground, "AMBIGUOUS")
    settle_questions(ground)
    assert state_of(client, third) == ("SCHEDULED", "JudgedAgain")

    suspend(client, third, newest(ground.store).versions[2].on_head)
    settle_questions(ground)
    assert state_of(client, third) == ("PAUSED", "Suspended")


def test_a_version_that_is_refused_when_judged_again_is_asked_about_no_more(
    client: Any, ground: Ground
) -> None:
    settle_questions(ground)
    second, third = asked(client, ground).values()
    suspend(client, third, newest(ground.store).versions[2].on_head)
    promoted = str(second.parameters["version"])
    change(ground.store, lambda h: promote(h, promoted, replay="replay-2", by="ann", reason="good"))
    judged_again(ground, "FAIL")
    # Asked by the run whose approval had it judged again: whether the person insists.
    suspend(client, third, newest(ground.store).versions[2].on_head)
    settle_questions(ground)
    assert state_of(client, third) == ("PAUSED", "Suspended")
    # Asked about the verdict before, while an update judged it again by itself.
    suspend(client, third, newest(ground.store).versions[2].on_head - 1)
    settle_questions(ground)
    assert state_of(client, third) == ("COMPLETED", "Decided")


def judged_again(ground: Ground, verdict: str) -> None:
    head = newest(ground.store)
    again = to_judge_again(head, head.versions[2].version)
    assert again is not None
    judged: Any = replace(again, verdict=verdict)
    change(ground.store, lambda h: with_verdict(h, judged, replay=None, by="test"))


def test_a_crashed_question_goes_on_though_another_was_asked_since(
    client: Any, ground: Ground
) -> None:
    settle_questions(ground)
    second, third = asked(client, ground).values()
    client.set_flow_run_state(second.id, Running(), force=True)
    client.set_flow_run_state(second.id, Crashed(message="killed"), force=True)
    client.set_flow_run_state(third.id, Running(), force=True)

    async def look_after() -> None:
        async with get_client() as one:
            assert second.deployment_id is not None
            later = datetime.now(UTC) + timedelta(seconds=1)
            await recover(one, [second.deployment_id], [], later)

    asyncio.run(look_after())
    assert state_of(client, second) == ("SCHEDULED", "Resuming")
    # Taken for crashed though it waits: open again, with the same form.
    suspend(client, second, 7)
    client.set_flow_run_state(second.id, Crashed(message="no heartbeat"), force=True)
    asyncio.run(look_after())
    assert state_of(client, second) == ("PAUSED", "Suspended")
    state = client.read_flow_run(second.id).state
    assert state.state_details.run_input_keyset == keyset_from_base_key("suspended-head-7-0")
    assert state.state_details.pause_reschedule


def test_without_a_service_that_asks_nobody_is_asked(client: Any, ground: Ground) -> None:
    deployment = client.read_deployment_by_name("review-version/demo")
    client.delete_deployment(deployment.id)
    settle_questions(ground)
    assert [
        read_question(ground.store, LAYOUT, record.update)
        for record in waiting(newest(ground.store))
    ] == [None, None]
