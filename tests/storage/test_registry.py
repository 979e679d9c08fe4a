import json
import math
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

import storage.registry as registry
from storage.head import Head, VersionRecord
from storage.layout import Layout
from storage.local_objects import LocalObjects
from storage.registry import MetricPoint, Run, VersionPage
from storage.run_report import Attached, log_report


@pytest.fixture(scope="module")
def tracking_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One database for all tests, for it takes seconds to create; each test has its lineage."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture
def lineage(request: pytest.FixtureRequest) -> str:
    return request.node.name.replace("_", "-")[:60].rstrip("-")


@pytest.fixture
def store(tmp_path: Path) -> LocalObjects:
    return LocalObjects(tmp_path / "store")


def record(number: int, **changes: object) -> VersionRecord:
    new = VersionRecord(
        version=f"{number}-aaaaaaaa",
        update=f"update{number}",
        verdict="PASS",
        decision="published",
        parent=None if number == 1 else f"{number - 1}-aaaaaaaa",
        trunk=f"updates/update{number}/checkpoints/step-8",
        snapshots=(f"snapshot{number}",),
        replay=None,
        on_head=number,
        published_on_head=number,
    )
    return replace(new, **changes)  # pyright: ignore[reportArgumentType]


def head_of(lineage: str, *records: VersionRecord, champion: str | None) -> Head:
    return Head(
        lineage=lineage,
        number=len(records),
        action="update",
        by="test",
        reason="",
        written_at="2026-01-01T00:00:00Z",
        lease_token=1,
        champion=champion,
        versions=records,
    )


def pages_of(
    store: LocalObjects, lineage: str, run_id: str | None
) -> Callable[[str, Mapping[str, int]], VersionPage]:
    def page(version: str, numbers: Mapping[str, int]) -> VersionPage:
        return VersionPage(
            source=f"{store.uri}/{Layout(lineage).model(version)}",
            description=f"# {version}",
            run_id=run_id,
            facts={"recipe": "cosine"},
        )

    return page


def project(store: LocalObjects, head: Head, tracking_uri: str, run_id: str | None = None) -> None:
    layout = Layout(head.lineage)
    registry.project(store, layout, head, tracking_uri, pages_of(store, head.lineage, run_id))


def shown(tracking_uri: str, lineage: str) -> tuple[dict[str, dict[str, str]], str | None]:
    """Tags by version, and the version that the alias names, through a client of MLflow's own."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
    versions = client.search_model_versions(f"name='{lineage}'")
    champion = client.get_registered_model(lineage).aliases.get("champion")
    by_number = {str(v.version): v.tags["perennial.version"] for v in versions}
    assert len(set(by_number.values())) == len(by_number), "a version was registered twice"
    tags = {v.tags["perennial.version"]: dict(v.tags) for v in versions}
    return tags, None if champion is None else by_number[str(champion)]


def client_of(tracking_uri: str):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)


def open_run(tracking_uri: str, lineage: str, tmp_path: Path) -> Run:
    location = (tmp_path / "artifacts").as_uri()
    return registry.open_run(tracking_uri, lineage=lineage, update="u1", artifact_location=location)


def test_importing_the_registry_does_not_import_mlflow() -> None:
    code = (
        "import sys, storage.registry, storage.tracking;"
        "print({'mlflow', 'torch', 'sqlalchemy'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


def test_an_update_has_one_run_however_often_it_starts(
    tracking_uri: str, lineage: str, tmp_path: Path
) -> None:
    first = open_run(tracking_uri, lineage, tmp_path)
    registry.finish(first, "KILLED")
    registry.finish(first)
    assert registry.find_run(tracking_uri, lineage=lineage, update="u1") == first
    assert client_of(tracking_uri).get_run(first.run_id).info.status == "KILLED"
    second = open_run(tracking_uri, lineage, tmp_path)
    assert second == first
    assert client_of(tracking_uri).get_run(first.run_id).info.status == "RUNNING"
    assert registry.find_run(tracking_uri, lineage=lineage, update="u2") is None


def test_metrics_are_logged_once_across_restarts(
    tracking_uri: str, lineage: str, tmp_path: Path
) -> None:
    run = open_run(tracking_uri, lineage, tmp_path)
    points = [
        MetricPoint(key="train/loss", step=step, value=1 / (step + 1), timestamp_ms=1000 + step)
        for step in range(2100)
    ]
    assert registry.logged_steps(run, "train/loss") == set()
    registry.log_metrics(run, points[:1500])
    assert registry.logged_steps(run, "train/loss") == set(range(1500))
    found = registry.list_runs(tracking_uri, lineage=lineage)["u1"]
    assert (found.run, found.last_logged_step) == (run, 1499)
    # Taken again after a crash, at another time.
    again = [replace(point, timestamp_ms=9000) for point in points[:1500]]
    logged = registry.logged_steps(run, "train/loss")
    registry.log_metrics(run, [*again, *points[1500:]], logged_steps=logged)
    registry.log_metrics(run, points, logged_steps=registry.logged_steps(run, "train/loss"))
    history = client_of(tracking_uri).get_metric_history(run.run_id, "train/loss")
    assert sorted((m.step, m.value) for m in history) == [(p.step, p.value) for p in points]


def test_a_point_that_is_sent_again_after_a_crash_is_one_row(
    tracking_uri: str, lineage: str, tmp_path: Path
) -> None:
    run = open_run(tracking_uri, lineage, tmp_path)
    point = MetricPoint(key="train/loss", step=3, value=math.nan, timestamp_ms=1000)
    registry.log_metrics(run, [point])
    registry.log_metrics(run, [point])
    assert len(client_of(tracking_uri).get_metric_history(run.run_id, "train/loss")) == 1


def test_params_beyond_mlflows_limits_are_logged_and_kept(
    tracking_uri: str, lineage: str, tmp_path: Path
) -> None:
    run = open_run(tracking_uri, lineage, tmp_path)
    params = {f"p{index}": index for index in range(250)} | {"long": "x" * 10_000}
    registry.log_params(run, params)
    registry.log_params(run, {"p0": "another value", "late": 1})
    found = client_of(tracking_uri).get_run(run.run_id).data.params
    assert len(found) == 252
    assert found["p0"] == "0"
    assert found["long"].startswith("xxx")
    assert found["long"].endswith(" ...")


def test_the_report_hangs_on_the_run(tracking_uri: str, lineage: str, tmp_path: Path) -> None:
    run = open_run(tracking_uri, lineage, tmp_path)
    log_report(run, "<p>old</p>")
    log_report(run, "<p>new</p>")
    log_report(run, "<p>new</p>")
    pages = [path.read_text() for path in (tmp_path / "artifacts").rglob("report.html")]
    assert pages == ["<p>new</p>"]


def test_what_hangs_beside_the_report_is_attached_with_it_and_once(
    tracking_uri: str, lineage: str, tmp_path: Path
) -> None:
    run = open_run(tracking_uri, lineage, tmp_path)
    asked: list[str] = []

    def beside() -> Attached:
        asked.append("now")
        point = MetricPoint(key="verdict/gain", step=8, value=0.25, timestamp_ms=1000)
        table = '{"columns": ["a"], "data": [[1]]}'
        files = {"tables/one.json": table, "picture.svg": "<svg/>"}
        return Attached(files=files, points=(point,))

    log_report(run, "<p>page</p>", beside=beside)
    digest = registry.list_runs(tracking_uri, lineage=lineage)["u1"].report_digest
    log_report(run, "<p>page</p>", beside=beside, known_digest=digest)
    assert asked == ["now"]
    # Killed before the digest was set, everything is attached again.
    log_report(run, "<p>page</p>", beside=beside)
    shown = client_of(tracking_uri).get_run(run.run_id).data
    assert shown.metrics["verdict/gain"] == 0.25
    assert len(client_of(tracking_uri).get_metric_history(run.run_id, "verdict/gain")) == 1
    assert json.loads(shown.tags["mlflow.loggedArtifacts"]) == [
        {"path": "tables/one.json", "type": "table"}
    ]
    assert [path.name for path in (tmp_path / "artifacts").rglob("*.svg")] == ["picture.svg"]


def test_a_parent_links_to_a_child_that_came_later(
    tracking_uri: str, lineage: str, store: LocalObjects
) -> None:
    layout = Layout(lineage)
    asked: list[tuple[str, set[str]]] = []

    def page(version: str, numbers: Mapping[str, int]) -> VersionPage:
        asked.append((version, set(numbers)))
        known = ", ".join(sorted(numbers))
        return VersionPage(source=f"s3://b/models/{version}", description=known)

    for count in (1, 2):
        records = [record(number) for number in range(1, count + 1)]
        head = head_of(lineage, *records, champion=records[-1].version)
        registry.project(store, layout, head, tracking_uri, page)
    assert asked[-1] == ("1-aaaaaaaa", {"1-aaaaaaaa", "2-aaaaaaaa"})
    described = {
        version.tags["perennial.version"]: version.description
        for version in client_of(tracking_uri).search_model_versions(f"name='{lineage}'")
    }
    assert described["1-aaaaaaaa"] == "1-aaaaaaaa, 2-aaaaaaaa"
    count = len(asked)
    registry.project(store, layout, head, tracking_uri, page)
    assert len(asked) == count + 2


def test_registering_twice_is_one_version(
    tracking_uri: str, lineage: str, store: LocalObjects
) -> None:
    head = head_of(lineage, record(1), record(2), champion="2-aaaaaaaa")
    layout = Layout(lineage)
    assert not registry.is_projected(store, layout, head, tracking_uri)
    project(store, head, tracking_uri)
    before = shown(tracking_uri, lineage)
    project(store, head, tracking_uri)
    assert shown(tracking_uri, lineage) == before
    tags, champion = before
    assert champion == "2-aaaaaaaa"
    assert tags["2-aaaaaaaa"]["perennial.parent"] == "1-aaaaaaaa"
    assert tags["2-aaaaaaaa"]["perennial.recipe"] == "cosine"
    assert registry.is_projected(store, layout, head, tracking_uri)
    assert not registry.is_projected(store, layout, head, "sqlite:////elsewhere.db")


def test_what_was_changed_by_hand_is_repaired(
    tracking_uri: str, lineage: str, store: LocalObjects
) -> None:
    head = head_of(lineage, record(1), record(2), champion="2-aaaaaaaa")
    project(store, head, tracking_uri)
    before = shown(tracking_uri, lineage)

    client = client_of(tracking_uri)
    client.set_registered_model_alias(lineage, "champion", "1")
    client.delete_model_version_tag(lineage, "1", "perennial.version")
    client.set_model_version_tag(lineage, "2", "perennial.verdict", "FAIL")
    client.set_model_version_tag(lineage, "2", "perennial.invented", "yes")
    client.set_model_version_tag(lineage, "2", "owner", "somebody")
    client.update_model_version(lineage, "2", "changed")
    project(store, head, tracking_uri)

    tags, champion = shown(tracking_uri, lineage)
    assert tags["2-aaaaaaaa"].pop("owner") == "somebody"
    assert (tags, champion) == before
    assert client.get_model_version(lineage, "2").description == "# 2-aaaaaaaa"


def test_a_version_that_was_deleted_by_hand_comes_back(
    tracking_uri: str, lineage: str, store: LocalObjects
) -> None:
    head = head_of(lineage, record(1), record(2), champion="1-aaaaaaaa")
    project(store, head, tracking_uri)
    client_of(tracking_uri).delete_model_version(lineage, "1")
    project(store, head, tracking_uri)
    tags, champion = shown(tracking_uri, lineage)
    assert sorted(tags) == ["1-aaaaaaaa", "2-aaaaaaaa"]
    assert champion == "1-aaaaaaaa"


def test_a_rollback_moves_the_alias_and_the_decision(
    tracking_uri: str, lineage: str, store: LocalObjects
) -> None:
    published = head_of(lineage, record(1), record(2), champion="2-aaaaaaaa")
    project(store, published, tracking_uri)
    rolled_back = head_of(
        lineage, record(1), record(2, decision="rolled_back"), champion="1-aaaaaaaa"
    )
    assert not registry.is_projected(store, Layout(lineage), rolled_back, tracking_uri)
    project(store, rolled_back, tracking_uri)
    tags, champion = shown(tracking_uri, lineage)
    assert champion == "1-aaaaaaaa"
    assert tags["2-aaaaaaaa"]["perennial.decision"] == "rolled_back"


def test_without_a_champion_there_is_no_alias(
    tracking_uri: str, lineage: str, store: LocalObjects
) -> None:
    project(store, head_of(lineage, record(1), champion="1-aaaaaaaa"), tracking_uri)
    without = head_of(lineage, record(1, decision="rolled_back"), champion=None)
    project(store, without, tracking_uri)
    project(store, without, tracking_uri)
    assert shown(tracking_uri, lineage)[1] is None


def test_a_version_is_linked_to_the_run_that_made_it(
    tracking_uri: str, lineage: str, store: LocalObjects, tmp_path: Path
) -> None:
    run = open_run(tracking_uri, lineage, tmp_path)
    head = head_of(lineage, record(1, update="u1"), champion="1-aaaaaaaa")
    project(store, head, tracking_uri, run.run_id)
    found = client_of(tracking_uri).get_model_version(lineage, "1")
    assert found.run_id == run.run_id
    assert found.source == f"{store.uri}/lineages/{lineage}/models/1-aaaaaaaa"
