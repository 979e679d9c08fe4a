"""MLflow on a server of its own: away, hanging, killed, or behind a network that loses calls."""

import sqlite3
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from flows.ground import Ground
from flows.mirror import MirrorError, show_head
from storage.head import history
from storage.mlflow_client import mlflow_client
from storage.tracking import list_runs
from tests.integration.judged import LAYOUT, Judged, assert_mlflow_shows, newest, set_mlflow_aside
from tests.integration.servers.gateway import Gateway
from tests.integration.servers.mlflow_faults import Call, Fault, FaultyMlflow, faults_of
from tests.integration.servers.mlflow_server import MlflowServer
from tests.integration.servers.postgres import Postgres
from tests.integration.servers.prefect_server import PrefectServer
from training.metrics import TIME, read_metrics

pytestmark = pytest.mark.integration

OpenGround = Callable[[str], Ground]


@pytest.fixture
def open_ground(judged: Judged, monkeypatch: pytest.MonkeyPatch) -> OpenGround:
    """The ground of ``judged``, in this process, with MLflow at an address."""

    def opened(mlflow_uri: str) -> Ground:
        for name, value in judged.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("PERENNIAL_HOME", str(judged.commands.home))
        monkeypatch.setenv("PERENNIAL_MLFLOW_URI", mlflow_uri)
        # The proxy's connections end at once: there is nothing to wait for.
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_JITTER", "0")
        return judged.ground()

    return opened


def show_until_told(ground: Ground, attempts: int) -> None:
    """What the next commands do."""
    for _ in range(attempts):
        try:
            show_head(ground, newest(ground), repair=True)
        except MirrorError:
            continue
        return
    raise AssertionError(f"MLflow was not told in {attempts} attempts")


def test_requests_without_the_right_password_are_refused(mlflow_server: MlflowServer) -> None:
    for path in (
        "/",
        "/api/2.0/mlflow/experiments/search?max_results=1",
        "/ajax-api/2.0/mlflow/registered-models/search",
        "/ajax-api/3.0/jobs",
        "/v1/traces",
        "/get-artifact?path=report.html&run_uuid=x",
    ):
        assert mlflow_server.get(path)[0] == 401
        assert mlflow_server.get(path, password="password1234")[0] == 401
    assert mlflow_server.get("/", password=mlflow_server.password)[0] == 200


def test_an_update_ends_with_its_verdict_though_mlflow_is_away_or_hangs(
    judged: Judged, mlflow_server: MlflowServer, open_ground: OpenGround
) -> None:
    assert [ended.code for ended in judged.ended] == [0, 3, 0], judged.ended
    for ended in judged.ended[:2]:
        assert "MLflow could not be told" in ended.err
        assert "MLflow does not show this yet" in ended.out
        assert "Traceback" not in ended.err
    assert "MLflow" not in judged.ended[2].out
    ground = open_ground(mlflow_server.uri)
    written_at = {head.number: head.written_at for head in history(ground.store, LAYOUT)}
    for record in newest(ground).versions[:2]:
        rows = read_metrics(ground.store, LAYOUT.metrics(record.update))
        judged_at = datetime.fromisoformat(written_at[record.on_head]).timestamp()
        # MLflow's own patience with one call is a quarter of an hour.
        assert rows[-1][TIME] - rows[0][TIME] < 30
        assert judged_at - rows[-1][TIME] < 90


def test_what_happened_without_mlflow_is_complete_and_there_once_when_it_is_back(
    judged: Judged, mlflow_server: MlflowServer, open_ground: OpenGround
) -> None:
    assert_mlflow_shows(open_ground(mlflow_server.uri), mlflow_server)


def test_no_secret_is_written_anywhere(
    judged: Judged, mlflow_server: MlflowServer, gateway: Gateway, prefect: PrefectServer
) -> None:
    secrets = [mlflow_server.password, gateway.owner.secret_key]
    told = "".join(ended.out + ended.err for ended in judged.ended) + mlflow_server.log
    assert [secret for secret in secrets if secret in told] == []
    files = [*judged.commands.home.rglob("*"), *prefect.home.rglob("*"), mlflow_server.database]
    holding = [
        path
        for path in files
        if path.is_file() and any(secret.encode() in path.read_bytes() for secret in secrets)
    ]
    assert holding == []


# MLflow says this of a class of its own while mlflow.pyfunc is being imported.
@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning")
def test_the_champion_is_loaded_by_reference_and_its_files_open_in_the_pages(
    judged: Judged,
    mlflow_server: MlflowServer,
    open_ground: OpenGround,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ground = open_ground(mlflow_server.uri)
    head = newest(ground)
    assert head.champion is not None
    folder = LAYOUT.model(head.champion)
    before = [info.key for info in ground.store.list(folder)]

    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)
    model = mlflow.pyfunc.load_model("models:/tiny@champion")
    written = model.predict(["the old river"], params={"max_new_tokens": 3, "temperature": 0.0})
    assert [type(text) for text in written] == [str]

    found = mlflow_client(mlflow_server.uri).get_model_version_by_alias("tiny", "champion")
    path = f"/model-versions/get-artifact?path=MLmodel&name=tiny&version={found.version}"
    shown = mlflow_server.get(path, password=mlflow_server.password)
    assert shown == (200, ground.store.get(f"{folder}/MLmodel"))
    assert [info.key for info in ground.store.list(folder)] == before


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_lost_doubled_and_late_calls_leave_no_trace(
    seed: int, judged: Judged, mlflow_server: MlflowServer, open_ground: OpenGround
) -> None:
    set_mlflow_aside(mlflow_server, f"before-seed-{seed}")
    with FaultyMlflow(mlflow_server.uri, faults_of(seed, share=0.3)).running() as proxy:
        show_until_told(open_ground(proxy.uri), attempts=20)
        ways = set(proxy.done) - {Fault.NONE, Fault.HANGING}
        assert ways == set(Fault) - {Fault.NONE, Fault.HANGING}, proxy.done
    # What came late is mended by the next command.
    ground = open_ground(mlflow_server.uri)
    show_head(ground, newest(ground), repair=True)
    assert_mlflow_shows(ground, mlflow_server)


@pytest.mark.parametrize("call", [12, 30])
def test_a_server_that_is_killed_in_the_middle_is_told_the_rest_later(
    call: int, judged: Judged, mlflow_server: MlflowServer, open_ground: OpenGround
) -> None:
    set_mlflow_aside(mlflow_server, f"before-kill-{call}")

    def fault(number: int, _call: Call) -> Fault:
        if number == call:
            mlflow_server.kill()
        return Fault.DROPPED if number >= call else Fault.NONE

    with FaultyMlflow(mlflow_server.uri, fault).running() as proxy:
        ground = open_ground(proxy.uri)
        try:
            with pytest.raises(MirrorError, match="MLflow could not be told"):
                show_head(ground, newest(ground), repair=True)
        finally:
            mlflow_server.start()
    ground = open_ground(mlflow_server.uri)
    show_head(ground, newest(ground), repair=True)
    assert_mlflow_shows(ground, mlflow_server)


def test_a_crash_between_metrics_and_tag_repeats_no_step(
    judged: Judged, mlflow_server: MlflowServer, open_ground: OpenGround
) -> None:
    with sqlite3.connect(mlflow_server.database) as database:
        # As after the crash, with the rows as an earlier life of the run had logged them.
        database.execute("delete from tags where key = 'perennial.last_logged_step'")
        database.execute("update metrics set timestamp = timestamp - 7")
    database.close()
    ground = open_ground(mlflow_server.uri)
    show_head(ground, newest(ground), repair=True)
    assert_mlflow_shows(ground, mlflow_server)


def test_on_postgresql_the_history_is_as_complete(
    judged: Judged,
    postgres: Postgres,
    gateway: Gateway,
    open_ground: OpenGround,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    server = MlflowServer(
        folder=tmp_path / "mlflow",
        backend_uri=postgres.url("mlflow").replace("postgresql:", "postgresql+psycopg2:"),
        artifacts_uri=f"s3://{gateway.new_bucket()}/mlflow",
        environment=gateway.environment(),
    ).start()
    try:
        with FaultyMlflow(server.uri, faults_of(7, share=0.3)).running() as proxy:
            ground = open_ground(proxy.uri)
            monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", server.password)
            show_until_told(ground, attempts=20)
        ground = open_ground(server.uri)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", server.password)
        show_head(ground, newest(ground), repair=True)
        assert postgres.password not in server.log
    finally:
        server.stop()
    # The database itself in the place of the server, as on a machine that has no S3.
    ground = open_ground(postgres.url("mlflow"))
    show_head(ground, newest(ground), repair=True)
    head = newest(ground)
    client = mlflow_client(postgres.url("mlflow"))
    runs = list_runs(postgres.url("mlflow"), lineage="tiny")
    assert [found.status for found in runs.values()] == ["FINISHED"] * len(head.versions)
    for record in head.versions:
        found = runs[record.update]
        curve = client.get_metric_history(found.run.run_id, "train/loss")
        assert sorted(m.step for m in curve) == list(range(1, found.last_logged_step + 1))
    champion = client.get_model_version_by_alias("tiny", "champion")
    assert champion.tags["perennial.version"] == head.champion
    assert len(client.search_model_versions("name='tiny'")) == len(head.versions)
