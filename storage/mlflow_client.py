"""MLflow's client, which answers within a bounded time or says that it cannot.

Importing MLflow takes seconds, so it happens inside the functions.
"""

import fcntl
import functools
import logging
import os
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from infra.credentials import holds_credentials

if TYPE_CHECKING:
    from mlflow import MlflowClient

_ENVIRONMENT = {
    # MLflow's own defaults let one call wait for a quarter of an hour. With these it has failed
    # after 50 s when nothing answers at all, after 10 s when the connection is refused.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    # A server or proxy may ask for hours.
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
    "PGCONNECT_TIMEOUT": "10",
    # MLflow prints links to standard output, where our JSON goes.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # Read while MLflow is being imported. Nothing leaves the configured servers.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
}
_CONNECT_SECONDS = 10.0


def is_server(tracking_uri: str) -> bool:
    """Whether MLflow is spoken to over HTTP, and not by way of its database."""
    return tracking_uri.startswith(("http://", "https://"))


def check_tracking(tracking_uri: str, store_uri: str) -> None:
    """Refuse what would fail only when everything is trained. Without MLflow, and without a call.

    Raises:
        ValueError: The URI holds a password, or an MLflow server would refuse the store's models.
    """
    if not is_server(tracking_uri):
        return
    if holds_credentials(tracking_uri):
        raise ValueError(
            "expected PERENNIAL_MLFLOW_URI to be an address without user and password, found both "
            "or one of them: set it to http(s)://host:port and give the others in "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    # _validate_source_run of MLflow's server: else any client could read any file of its machine.
    if store_uri.startswith("file:"):
        raise ValueError(
            f"an MLflow server registers no model that lies in a local folder ({store_uri}), found "
            f"PERENNIAL_MLFLOW_URI={tracking_uri}: set PERENNIAL_STORAGE_ROOT to s3://bucket/prefix"
            ", or PERENNIAL_MLFLOW_URI to the server's database (sqlite:///... or postgresql://...)"
        )


@functools.lru_cache(maxsize=8)
def mlflow_client(tracking_uri: str) -> "MlflowClient":
    """MLflow's client for tracking and registry at one URI; the first call creates the tables.

    Raises:
        ConnectionError: The database's server does not answer.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Every retry would be a line; who gives up tells it once.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    from mlflow import MlflowClient  # noqa: PLC0415  heavy

    path = _sqlite_file(tracking_uri)
    if path is not None and not path.exists():
        _create_database(path)
    if path is None and not is_server(tracking_uri):
        _reach_database(tracking_uri)
    # So that SQLAlchemy takes the driver that is installed.
    uri = re.sub("^postgresql://", "postgresql+psycopg2://", tracking_uri)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _reach_database(tracking_uri: str) -> None:
    """Fail at once where MLflow would try for minutes to open a database that is away."""
    place = urlsplit(tracking_uri)
    if place.hostname is None:
        return
    port = place.port or 5432
    try:
        socket.create_connection((place.hostname, port), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise ConnectionError(
            f"MLflow's database server {place.hostname}:{port} does not answer: {error}"
        ) from error


def _sqlite_file(tracking_uri: str) -> Path | None:
    """The file of a ``sqlite:///`` URI; None for a server and for a database in memory."""
    name = tracking_uri.removeprefix("sqlite:///").partition("?")[0]
    return Path(name) if tracking_uri.startswith("sqlite:///") and name else None


def _create_database(path: Path) -> None:
    """Have MLflow make its tables in a file that appears whole or not at all.

    MLflow never opens a file again in which a first creation was cut short.
    """
    from mlflow import MlflowClient  # noqa: PLC0415  heavy

    path.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # Released by the kernel when its holder dies: what lies there then is a leftover.
        fcntl.flock(folder, fcntl.LOCK_EX)
        if path.exists():
            return
        for leftover in path.parent.glob(f".{path.name}.*.new*"):
            leftover.unlink()
        # Of a fresh name, because MLflow keeps a connection to every file that it has opened.
        new = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}.new")
        uri = f"sqlite:///{new}"
        MlflowClient(tracking_uri=uri, registry_uri=uri).search_experiments(max_results=1)
        new.replace(path)
    finally:
        os.close(folder)
