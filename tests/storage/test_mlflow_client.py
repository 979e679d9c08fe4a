import os
import signal
import socket
from importlib import import_module
from pathlib import Path

import pytest

from storage.mlflow_client import check_tracking, mlflow_client
from tests.support.killing_store import run_killed


def _die_at_the_tables(uri: str) -> None:
    """Create the database, and die when a first part of the tables is in the file."""
    from alembic.runtime.migration import MigrationContext

    def die(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    MigrationContext.run_migrations = die
    mlflow_client(uri)


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_creation_that_was_cut_short_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    # Imported before the fork, so that it need not be imported twice.
    import_module("mlflow.store.tracking.sqlalchemy_store")

    path = tmp_path / "mlflow" / "mlflow.db"
    uri = f"sqlite:///{path}"
    assert run_killed(lambda: _die_at_the_tables(uri)).killed
    assert not path.exists()
    assert [found.stat().st_size > 0 for found in path.parent.glob(".mlflow.db.*.new")] == [True]
    mlflow_client(uri).create_experiment("demo")
    mlflow_client.cache_clear()
    assert mlflow_client(uri).get_experiment_by_name("demo") is not None
    assert [found.name for found in path.parent.iterdir()] == ["mlflow.db"]


@pytest.mark.parametrize(
    ("tracking_uri", "store_uri", "message"),
    [
        ("https://ann:secret@mlflow:5000", "s3://bucket/x", "MLFLOW_TRACKING_USERNAME and MLFLOW_"),
        ("http://token@mlflow", "s3://bucket/x", "an address without user and password"),
        ("http://mlflow:5000", "file:///data/store", "PERENNIAL_STORAGE_ROOT to s3://bucket"),
    ],
)
def test_what_an_mlflow_server_would_refuse_in_the_end_is_refused_at_once(
    tracking_uri: str, store_uri: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        check_tracking(tracking_uri, store_uri)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("tracking_uri", "store_uri"),
    [
        ("https://mlflow:5000", "s3://bucket/x"),
        ("sqlite:////data/mlflow.db", "file:///data/store"),
        ("postgresql://mlflow:secret@db/mlflow", "file:///data/store"),
    ],
)
def test_an_mlflow_that_can_show_the_store_is_accepted(tracking_uri: str, store_uri: str) -> None:
    check_tracking(tracking_uri, store_uri)


def test_a_database_that_is_away_is_told_at_once_and_without_its_password() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        uri = f"postgresql://mlflow:secret@127.0.0.1:{port}/mlflow"
        with pytest.raises(ConnectionError, match=f"127.0.0.1:{port} does not answer") as away:
            mlflow_client(uri)
    assert "secret" not in str(away.value)


def test_one_call_is_given_up_within_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TIMEOUT", "MAX_RETRIES", "BACKOFF_FACTOR", "BACKOFF_JITTER"):
        monkeypatch.delenv(f"MLFLOW_HTTP_REQUEST_{name}", raising=False)
    mlflow_client("http://127.0.0.1:9")
    settings = import_module("mlflow.environment_variables")
    timeout = settings.MLFLOW_HTTP_REQUEST_TIMEOUT.get()
    retries = settings.MLFLOW_HTTP_REQUEST_MAX_RETRIES.get()
    factor = settings.MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR.get()
    jitter = settings.MLFLOW_HTTP_REQUEST_BACKOFF_JITTER.get()
    pauses = sum(factor * 2**retry + jitter for retry in range(1, retries))
    assert timeout * (retries + 1) + pauses <= 60
    assert not settings.MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER.get()
