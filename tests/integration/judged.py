"""A lineage on S3 that was trained while MLflow was away, and what MLflow must say of it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flows.ground import Ground
from flows.lineage_yaml import load_lineage
from flows.mirror import metric_points
from infra.settings import Settings
from storage.head import Head, read_head
from storage.layout import Layout
from storage.manifest import load
from storage.objects import open_store
from tasks.judge.verdict import VerdictReport
from tasks.reporting.figures import figures_of
from tasks.reporting.page import report_key, verdict_key
from tests.integration.servers.gateway import Gateway
from tests.integration.servers.mlflow_faults import Fault, FaultyMlflow
from tests.integration.servers.mlflow_server import MlflowServer
from tests.support.commands import Commands, Ended
from tests.support.mlflow_tables import alias_of, points_of, run_ids_of, runs_of, versions_of
from tests.support.tiny_lineage import SEQ_LEN, TinyLineage
from training.goodput import settled
from training.metrics import STEP, read_metrics

LAYOUT = Layout("tiny")
_NO_PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "2", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}


@dataclass(frozen=True, slots=True)
class Judged:
    """Three versions: PASS while MLflow was dead, FAIL while it hung, PASS when it was back."""

    lineage: TinyLineage
    commands: Commands
    ended: tuple[Ended, ...]

    @property
    def environment(self) -> Mapping[str, str]:
        """Of the commands."""
        return self.commands.environment

    def ground(self) -> Ground:
        """As a command opens it, without Prefect; ``environment`` must be set."""
        settings = Settings()
        store = open_store(settings.store_uri)
        return Ground(load_lineage(self.lineage.file), settings, store, LAYOUT)


def train_without_mlflow(
    folder: Path, gateway: Gateway, server: MlflowServer, prefect: Mapping[str, str]
) -> Judged:
    """Three updates; at the end ``server`` runs, whatever it did before."""
    environment = {
        **gateway.environment(),
        **server.client_environment(),
        **prefect,
        "PERENNIAL_STORAGE_ROOT": f"s3://{gateway.new_bucket()}/perennial",
    }
    lineage, commands = TinyLineage(folder / "lineage"), Commands(folder / "home", environment)
    ended: list[Ended] = []

    def update(**more: str) -> None:
        one = Commands(commands.home, {**environment, **more})
        ended.append(one.run("update", lineage.file, timeout_seconds=240))

    lineage.add("prose")
    lineage.write()
    server.kill()
    try:
        update()
    finally:
        server.start()
    lineage.add("ledger")
    with FaultyMlflow(server.uri, lambda *_: Fault.HANGING).running() as hanging:
        update(PERENNIAL_MLFLOW_URI=hanging.uri, **_NO_PATIENCE)
    lineage.write(replay={"share": 0.5}, budget={"tokens": 200 * 16 * SEQ_LEN})
    update()
    return Judged(lineage, commands, tuple(ended))


def assert_mlflow_shows(ground: Ground, server: MlflowServer) -> None:
    """Every step of every update once, its account, one run, one version; alias and reports."""
    head = newest(ground)
    expected: list[tuple[str, int, float]] = []
    for record in head.versions:
        rows = read_metrics(ground.store, LAYOUT.metrics(record.update))
        points = [point for row in rows for point in metric_points(row)]
        expected += [(point.key, point.step, point.value) for point in points]
        account = settled(ground.store, LAYOUT, record.update)
        assert account is not None
        last = rows[-1][STEP]
        expected += [(f"goodput/{name}", last, spent) for name, spent in account.figures().items()]
        verdict = load(ground.store, verdict_key(LAYOUT, record.update), VerdictReport)
        expected += [(name, last, value) for name, value in figures_of(verdict).items()]
    expected.sort()
    assert points_of(server.database, "tiny") == expected
    assert runs_of(server.database, "tiny") == ["FINISHED"] * len(head.versions)
    shown = versions_of(server.database, "tiny")
    assert list(shown.values()) == [record.version for record in head.versions]
    assert shown[str(alias_of(server.database, "tiny"))] == head.champion
    runs = run_ids_of(server.database, "tiny")
    for record in head.versions:
        path = f"/get-artifact?path=report.html&run_uuid={runs[record.update]}"
        report = ground.store.get(report_key(LAYOUT, record.update))
        assert server.get(path, password=server.password) == (200, report)


def newest(ground: Ground) -> Head:
    """The head."""
    head = read_head(ground.store, LAYOUT)
    assert head is not None
    return head


def set_mlflow_aside(server: MlflowServer, name: str) -> None:
    """Give what MLflow shows of the lineage another name, so that it knows nothing of it."""
    found = json.loads(_call(server, "GET", "experiments/get-by-name?experiment_name=tiny"))
    experiment_id = found["experiment"]["experiment_id"]
    _call(server, "POST", "experiments/update", experiment_id=experiment_id, new_name=name)
    _call(server, "POST", "registered-models/rename", name="tiny", new_name=name)


def _call(server: MlflowServer, method: str, path: str, **body: str) -> bytes:
    sent = json.dumps(body).encode() if body else None
    status, answer = server.get(
        f"/api/2.0/mlflow/{path}", password=server.password, method=method, body=sent
    )
    assert status == 200, answer
    return answer
