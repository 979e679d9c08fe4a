"""What people see of a lineage in Prefect, before any server is there."""

import asyncio
import inspect
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest
from prefect.deployments.runner import RunnerDeployment
from prefect.utilities.callables import parameter_schema

from flows.deployments import DECIDING, WORKING, Served, deployments_of
from flows.lineage_yaml import LineageError, load_lineage, parse_lineage
from flows.serve import find_lineages
from flows.update import update_model
from tests.support.tiny_lineage import VALUES, TinyLineage

OTHER = Path("/lineages/other.yaml")


def deployments(tmp_path: Path, **changes: Any) -> dict[str, RunnerDeployment]:
    lineage = TinyLineage(tmp_path)
    lineage.write(**changes)
    served = Served(lineage.file, load_lineage(lineage.file))
    made = deployments_of(served, [lineage.file, OTHER])
    return {str(deployment.flow_name): deployment for deployment in made}


def test_the_server_plans_the_runs_of_a_timetable(tmp_path: Path, prefect_server: str) -> None:
    # Prefect 3.8 cannot with SQLAlchemy 2.1, which wants setters of its hybrid properties.
    timetable = {"cron": "0 2 * * *", "timezone": "Europe/Berlin"}
    deployment = asyncio.run(deployments(tmp_path, schedule=timetable)["update-model"].aapply())
    asked = httpx.post(
        f"{prefect_server}/deployments/{deployment}/schedule", json={"min_runs": 3}, timeout=30
    )
    assert asked.status_code == 200, asked.text
    body = {"flow_runs": {"deployment_id": {"any_": [str(deployment)]}}}
    runs = httpx.post(f"{prefect_server}/flow_runs/filter", json=body, timeout=30).json()
    starts = [datetime.fromisoformat(run["expected_start_time"]) for run in runs]
    assert len(starts) >= 3
    assert {start.astimezone(ZoneInfo("Europe/Berlin")).hour for start in starts} == {2}


def test_every_flow_has_a_deployment_named_after_the_lineage(tmp_path: Path) -> None:
    made = deployments(tmp_path)
    assert set(made) == {flow.name for flow in (*WORKING, *DECIDING)}
    for name, deployment in made.items():
        assert deployment.full_name == f"{name}/tiny"
        assert deployment.tags == ["perennial", "lineage:tiny"]
        assert deployment.parameters["lineage_file"] == str(tmp_path / "lineage.yaml")
        assert deployment.concurrency_limit == 1
        assert deployment.enforce_parameter_schema
        module, _, function = str(deployment.entrypoint).rpartition(".")
        assert inspect.getmodulename(module.replace(".", "/") + ".py") in (
            "update",
            "refresh",
            "review",
            "forget",
        )
        assert function


@pytest.mark.parametrize("flow", [*WORKING, *DECIDING], ids=lambda flow: flow.name)
def test_every_parameter_of_every_form_is_described(flow: Any) -> None:
    schema = parameter_schema(flow)
    for name, parameter in schema.properties.items():
        assert parameter.get("description"), f"{flow.name} does not say what {name} is"


def test_the_form_of_an_update_offers_what_becomes_of_an_unfinished_one() -> None:
    offered = parameter_schema(update_model).properties["take_over"]
    assert offered["enum"] == ["refuse", "continue", "new-phase", "weights-only", "nothing"]
    assert offered["default"] == "refuse"


def test_without_a_timetable_only_people_start_updates(tmp_path: Path) -> None:
    assert all(not deployment.schedules for deployment in deployments(tmp_path).values())


def test_the_timetable_concerns_updates_alone(tmp_path: Path) -> None:
    timetable = {"cron": "0 2 * * *", "timezone": "Europe/Berlin", "when_busy": "skip"}
    made = deployments(tmp_path, schedule=timetable)
    assert [name for name, deployment in made.items() if deployment.schedules] == ["update-model"]
    [schedule] = made["update-model"].schedules or []
    assert schedule.schedule is not None
    assert schedule.schedule.model_dump(include={"cron", "timezone"}) == {
        "cron": "0 2 * * *",
        "timezone": "Europe/Berlin",
    }
    strategies = {
        name: str(deployment.concurrency_options.collision_strategy.value)
        for name, deployment in made.items()
        if deployment.concurrency_options is not None
    }
    assert strategies.pop("update-model") == strategies.pop("refresh-data") == "CANCEL_NEW"
    assert set(strategies.values()) == {"ENQUEUE"}


@pytest.mark.parametrize(
    ("timetable", "message"),
    [
        ({"cron": "at night"}, "cron 'at night' is not understood: expected minute, hour"),
        ({"cron": "* * * * * *"}, "is not understood"),
        ({"timezone": "Mars"}, "timezone 'Mars' is not known: use an IANA name"),
        ({"wait_seconds": -1}, "must be at least 0 and at most 604800 seconds, got -1"),
        ({"when_busy": "hurry"}, "'wait' or 'skip', got 'hurry'"),
    ],
)
def test_a_timetable_that_cannot_be_kept_is_refused(
    timetable: dict[str, Any], message: str
) -> None:
    with pytest.raises(LineageError, match=message):
        parse_lineage({**VALUES, "schedule": timetable}, origin=OTHER)


def test_lineages_are_found_in_files_and_folders(tmp_path: Path) -> None:
    TinyLineage(tmp_path / "a").write(name="a")
    TinyLineage(tmp_path / "b").write(name="b")
    found = find_lineages([tmp_path / "a", tmp_path / "b" / "lineage.yaml", tmp_path / "a"])
    assert [(served.lineage.name, served.file.parent.name) for served in found] == [
        ("a", "a"),
        ("b", "b"),
    ]


def test_two_lineages_of_one_name_are_not_served(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        TinyLineage(tmp_path / folder).write()
    with pytest.raises(LineageError, match=r"b/lineage\.yaml: the lineage 'tiny' is that of .*/a/"):
        find_lineages([tmp_path / "a", tmp_path / "b"])


def test_no_lineage_at_all_is_told(tmp_path: Path) -> None:
    with pytest.raises(LineageError, match="no lineage to serve: expected YAML files, or folders"):
        find_lineages([tmp_path])
