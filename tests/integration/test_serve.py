"""``perennial serve`` on a real Prefect server: timetables, forms, triggers at once, cancel."""

import urllib.error
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from storage.layout import Layout
from storage.lease import Lease
from tests.integration.servers.prefect_server import PrefectServer
from tests.integration.servers.serving import LONG, Serving
from tests.support.mlflow_tables import runs_of, versions_of

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def serving(prefect: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A served folder, to which every test adds a lineage of its own."""
    service = Serving(prefect, tmp_path_factory.mktemp("serving"))
    service.add("first")
    service.start()
    yield service
    service.stop()


def test_a_timetable_follows_the_yaml_and_leaves_the_switch_to_people(serving: Serving) -> None:
    def schedules() -> list[dict[str, Any]]:
        return serving.deployment("update-model/nightly")["schedules"]

    def crons() -> list[str]:
        return [schedule["schedule"]["cron"] for schedule in schedules()]

    timetable = {"cron": "0 2 * * *", "timezone": "Europe/Berlin"}
    lineage = serving.add("nightly", schedule=timetable)
    assert crons() == ["0 2 * * *"]
    deployment = serving.deployment("update-model/nightly")
    assert set(deployment["tags"]) == {"perennial", "lineage:nightly"}
    assert serving.deployment("refresh-data/nightly")["schedules"] == []
    planned = serving.wait_for(lambda: serving.planned("update-model/nightly"), 60, "planned runs")
    assert {run["expected_start_time"][14:19] for run in planned} == {"00:00"}
    path = f"/deployments/{deployment['id']}/schedules/{schedules()[0]['id']}"
    serving.call("PATCH", path, {"active": False})
    lineage.write(name="nightly", schedule={**timetable, "cron": "30 4 * * *"})
    serving.publish(lineage, "nightly")
    serving.wait_for(lambda: crons() == ["30 4 * * *"], 30, "the new schedule")
    assert [schedule["active"] for schedule in schedules()] == [False]
    # A YAML that cannot be used is told, and changes nothing.
    lineage.write(name="nightly", schedule={**timetable, "cron": "at night"})
    serving.publish(lineage, "nightly")
    serving.wait_for(lambda: "cron 'at night' is not understood" in serving.said, 30, "a warning")
    assert crons() == ["30 4 * * *"]
    lineage.write(name="nightly", schedule={**timetable, "enabled": False})
    serving.publish(lineage, "nightly")
    serving.wait_for(lambda: not crons(), 30, "the schedule to go")


def test_a_lineage_that_is_renamed_or_removed_leaves_the_pages(serving: Serving) -> None:
    def offered() -> set[str]:
        tags = {"deployments": {"tags": {"all_": ["perennial"]}}, "limit": 200}
        return {found["name"] for found in serving.call("POST", "/deployments/filter", tags)}

    lineage = serving.add("wanderer", schedule={"cron": "0 2 * * *"})
    serving.deployment("update-model/wanderer")
    lineage.write(name="settler")
    serving.publish(lineage, "wanderer")
    serving.deployment("update-model/settler")
    serving.wait_for(lambda: "wanderer" not in offered(), 40, "the old name to go")
    Path(serving.file("wanderer")).unlink()
    serving.wait_for(lambda: "settler" not in offered(), 40, "the new name to go")
    assert "first" in offered()


@pytest.mark.parametrize(
    ("flow", "parameters", "refused"),
    [
        ("update-model", {"wait_seconds": -1}, "-1 is less than the minimum of 0"),
        ("update-model", {"when_busy": "hurry"}, "'hurry' is not one of"),
        ("update-model", {"lineage_file": "/etc/passwd"}, "'/etc/passwd' is not one of"),
        ("update-model", {"dry_run": "perhaps"}, "'perhaps' is not of type 'boolean'"),
        ("promote-version", {"version": "1"}, "'reason' is a required property"),
        ("promote-version", {"version": "1", "reason": " "}, "' ' does not match"),
        ("promote-version", {"version": "", "reason": "x"}, "''"),
    ],
)
def test_the_server_refuses_what_does_not_fit_the_form(
    flow: str, parameters: dict[str, Any], refused: str, serving: Serving
) -> None:
    with pytest.raises(urllib.error.HTTPError, match=r"409|422") as raised:
        serving.trigger(f"{flow}/first", **parameters)
    assert refused in raised.value.read().decode()


def test_a_run_with_parameters_that_its_flow_has_not_fails_with_a_sentence(
    serving: Serving,
) -> None:
    run = serving.trigger("refresh-data/first", epochs=3)
    serving.wait_for_state(run, "Failed")
    state = serving.run(run)["state"]
    assert state["message"] == (
        "parameters must be of lineage_file, wait_seconds, when_busy; found epochs as well: start "
        "another run without them."
    )
    assert serving.states(run).count("Crashed") == 1


def test_the_same_trigger_ten_times_and_three_more_make_one_update(serving: Serving) -> None:
    serving.add("often").add("prose")
    serving.deployment("update-model/often")

    def deliver(_: int) -> str:
        return serving.trigger("update-model/often", key="cron 2026-11-20 02:00")

    with ThreadPoolExecutor(10) as pool:
        deliveries = list(pool.map(deliver, range(10)))
        clicks = list(pool.map(lambda _: serving.trigger("update-model/often"), range(3)))
    assert len(set(deliveries)) == 1
    ends = [serving.end_of(run, 150)["name"] for run in (*clicks, deliveries[0])]
    assert sorted(ends) == ["NothingToDo", "NothingToDo", "NothingToDo", "PASS"]
    assert len(serving.head("often").versions) == 1
    assert len(versions_of(serving.home, "often")) == 1
    assert runs_of(serving.home, "often") == ["FINISHED"]
    # Delivered again after all is done: the same run, which stays as it ended.
    assert deliver(0) == deliveries[0]
    assert serving.run(deliveries[0])["name"].startswith("often 20")


def test_who_finds_the_lineage_busy_waits_or_skips_as_configured(serving: Serving) -> None:
    serving.add("busy", schedule={"when_busy": "skip"}).add("prose")
    serving.deployment("refresh-data/busy")
    with Lease.acquire(serving.store, Layout("busy"), "somebody@elsewhere"):
        skipped = serving.trigger("update-model/busy")
        waiting = serving.trigger("refresh-data/busy", when_busy="wait", wait_seconds=90)
        state = serving.end_of(skipped)
        assert (state["type"], state["name"]) == ("COMPLETED", "Skipped")
        assert "busy is being updated by somebody@elsewhere" in state["message"]
        vain = serving.trigger("update-model/busy", when_busy="wait", wait_seconds=1)
        failed = serving.end_of(vain)
        assert (failed["type"], failed["name"]) == ("FAILED", "Failed")
        assert "busy is being updated by somebody@elsewhere" in failed["message"]
        serving.wait_for_state(waiting, "Running")
        # One run of a deployment at a time; who comes second is told so.
        second = serving.end_of(serving.trigger("refresh-data/busy"))
        assert (second["name"], second["message"]) == (
            "Cancelled",
            "Deployment concurrency limit reached.",
        )
        assert serving.run(waiting)["state"]["name"] == "Running"
    assert serving.end_of(waiting)["name"] == "Done"


def test_cancel_ends_a_training_and_retry_goes_on_with_it(serving: Serving) -> None:
    serving.add("stopped", budget=LONG).add("prose")
    run = serving.trigger("update-model/stopped")
    serving.wait_for_checkpoint("stopped", 60)
    serving.set_state(run, "CANCELLING", "Cancelling")
    assert serving.end_of(run)["name"] == "Cancelled"
    serving.wait_for_free_lease("stopped")
    assert f"step-{LONG['first_tokens'] // (16 * 32)}" not in serving.said
    serving.set_state(run, "SCHEDULED", "AwaitingRetry")
    assert serving.end_of(run)["name"] == "PASS"
    assert serving.states(run).count("Running") == 2
    serving.assert_no_step_was_saved_twice("stopped")
    assert len(serving.head("stopped").versions) == 1
    assert runs_of(serving.home, "stopped") == ["FINISHED"]
