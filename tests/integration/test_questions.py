"""A version waits for a person: asked in Prefect, answered there, by command, or after a crash."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from storage.head import Head, VersionRecord, commit_change
from storage.models import ModelManifest, publish_model
from storage.objects import ObjectStore
from storage.question import Question, read_question
from storage.transitions import with_verdict
from tasks.publish import replay_extender
from tests.integration.servers.browser import Camera
from tests.integration.servers.prefect_server import PrefectServer
from tests.integration.servers.serving import Serving
from tests.support.lineages import LAYOUT, SEQ_LEN, add_snapshot, candidate, newest

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def serving(prefect: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A served lineage of a champion and three versions that wait; nothing was trained for them.

    They became so while no server was there to ask.
    """
    service = Serving(prefect, tmp_path_factory.mktemp("questions"))
    (service.home / "store").mkdir(parents=True)
    for number, verdict in enumerate(("PASS", "AMBIGUOUS", "AMBIGUOUS", "AMBIGUOUS"), start=1):
        judge(service.store, number, verdict)
    service.add("demo", recipe={"seq_len": SEQ_LEN})
    service.start()
    yield service
    service.stop()


def judge(store: ObjectStore, number: int, verdict: str) -> None:
    """A refresh and an update with this verdict."""
    add_snapshot(store, number)
    record = candidate(newest(store), verdict, reason="too little is held out to see a gain")
    manifest = ModelManifest(
        lineage="demo", version=record.version, origin="o", code_version="1", content="c", files=()
    )
    publish_model(store, LAYOUT.model(record.version), manifest)
    extend = replay_extender(store, LAYOUT, budget_tokens=1600, seq_len=SEQ_LEN)

    def change(head: Head | None) -> Head:
        assert head is not None
        replay = extend(head, record.snapshots) if verdict == "PASS" else None
        return with_verdict(head, record, replay=replay, by="test")

    commit_change(store, LAYOUT, change)


def version(serving: Serving, number: int) -> VersionRecord:
    return serving.head("demo").versions[number - 1]


def question_about(serving: Serving, number: int, *, attempt: int = 0) -> dict[str, Any]:
    """The run that asks about a version, waiting until it is suspended."""
    deployment = serving.deployment("review-version/demo")["id"]
    name = version(serving, number).version
    body = {"flow_runs": {"deployment_id": {"any_": [deployment]}}}

    def is_suspended(run: dict[str, Any]) -> bool:
        keys = run["state"]["state_details"].get("run_input_keyset") or {}
        return run["state"]["name"] == "Suspended" and keys["schema"].endswith(f"-{attempt}-schema")

    def suspended() -> dict[str, Any] | None:
        runs = serving.call("POST", "/flow_runs/filter", body)
        asking = [run for run in runs if run["parameters"]["version"] == name]
        assert len(asking) <= 1, "one question a version"
        return next((run for run in asking if is_suspended(run)), None)

    return serving.wait_for(suspended, 300, f"the question about {name}")


def answer(serving: Serving, run: str, **values: str) -> dict[str, Any]:
    """Press Resume; what Prefect's server says to that."""
    return serving.call("POST", f"/flow_runs/{run}/resume", {"run_input": values})


def test_an_answer_is_heard_though_all_servers_are_killed_before_and_after_it(
    serving: Serving, prefect: PrefectServer
) -> None:
    run = question_about(serving, 2)
    asked = version(serving, 2)
    assert read_question(serving.store, LAYOUT, asked.update) == Question(
        run=run["id"], link=f"{prefect.url}/runs/flow-run/{run['id']}"
    )
    assert {"perennial", "lineage:demo", "question"} <= set(run["tags"])
    kill_both(serving, prefect)
    prefect.start()
    refused = answer(serving, run["id"], decision="perhaps", comment="why not", by="ann")
    assert refused["status"] == "REJECT"
    assert "'perhaps' is not one of ['approve', 'reject']" in refused["details"]["reason"]
    assert "required" in answer(serving, run["id"])["details"]["reason"]
    told = answer(serving, run["id"], decision="approve", comment="read the report", by="ann")
    assert told["status"] == "ACCEPT"
    # Nobody serves yet: the answer waits in Prefect's database, whatever happens to its server.
    prefect.kill()
    prefect.start()
    serving.start()
    ended = serving.end_of(run["id"], seconds=300)
    assert (ended["type"], ended["name"]) == ("COMPLETED", "Done"), ended
    head = serving.head("demo")
    assert head.champion == asked.version
    assert (head.action, head.by, head.reason) == ("promote", "ann", "read the report")


def kill_both(serving: Serving, prefect: PrefectServer) -> None:
    """SIGKILL to the service with its runs, and to the server."""
    os.killpg(serving.pid, signal.SIGKILL)
    serving.end(signal.SIGKILL)
    prefect.kill()


def test_a_question_ends_itself_when_the_decision_is_made_by_command(serving: Serving) -> None:
    run = question_about(serving, 3)
    decided = version(serving, 3).version
    command = [sys.executable, "-m", "flows.cli", "reject", "3", "--reason", "too late"]
    subprocess.run(
        [*command, serving.file("demo")], env=serving.environment(), check=True, timeout=300
    )
    # Ended by the command, which knows no run: it looks for all questions.
    state = serving.run(run["id"])["state"]
    assert (state["type"], state["name"]) == ("COMPLETED", "Decided")
    assert re.match(
        rf"{decided} is rejected since head \d+ \(reject by .*\): too late", state["message"]
    )
    assert version(serving, 3).decision == "rejected"


def open_form(page: Page) -> Locator:
    page.locator("button:has(svg.lucide-ellipsis-vertical)").first.click()
    page.get_by_role("menuitem", name="Resume").click()
    return page.get_by_role("dialog")


def fill(page: Page, form: Locator, *, comment: str) -> None:
    """Reject as Ann, and send the form."""
    form.get_by_label("Select Decision").click()
    page.get_by_role("option", name="reject").click()
    form.get_by_label("Comment").fill(comment)
    form.get_by_label("By", exact=True).fill("Ann")
    form.get_by_role("button", name="Resume").click()


def test_a_person_reads_the_question_and_fills_the_form(
    serving: Serving, prefect: PrefectServer, page: Page, camera: Camera
) -> None:
    run = question_about(serving, 4)
    asked = version(serving, 4)
    question = read_question(serving.store, LAYOUT, asked.update)
    assert question is not None
    # The link opens Prefect's first pages, which its users may leave for the second.
    page.goto(question.link)
    page.get_by_role("button", name="Resume").first.click()
    expect(page.get_by_text("too little is held out to see a gain")).to_be_visible()
    camera.take(page, "question-link")
    page.goto(f"{prefect.url}/v2/runs/flow-run/{run['id']}")
    expect(page.get_by_text("Suspended").first).to_be_visible()
    camera.take(page, "question-run")
    form = open_form(page)
    expect(form.get_by_text("too little is held out to see a gain")).to_be_visible()
    expect(form.get_by_text(f"perennial promote {asked.version}")).to_be_visible()
    camera.take(page, "question-form")
    form.get_by_role("button", name="Resume").click()
    expect(page.get_by_text(re.compile("required")).first).to_be_visible()
    camera.take(page, "question-refused")
    fill(page, form, comment="  ")
    expect(form).to_be_hidden()
    # Blank is no reason: the question comes again, and says so.
    again = question_about(serving, 4, attempt=1)
    assert again["id"] == run["id"]
    page.reload()
    open_form(page)
    complaint = "reject was not possible: a decision needs a non-empty reason"
    expect(form.get_by_text(complaint)).to_be_visible()
    camera.take(page, "question-again")
    fill(page, form, comment="the report shows no gain")
    ended = serving.end_of(run["id"], seconds=300)
    assert (ended["type"], ended["name"]) == ("COMPLETED", "Done"), ended
    head = serving.head("demo")
    assert (head.action, head.by, head.reason) == ("reject", "Ann", "the report shows no gain")
    assert version(serving, 4).decision == "rejected"
    camera.take(page, "question-answered")
