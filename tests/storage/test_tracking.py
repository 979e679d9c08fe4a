import os
import signal
from importlib import import_module
from pathlib import Path

import pytest

from storage.tracking import mlflow_client
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
