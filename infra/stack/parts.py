"""How each part is started: command line, environment, and how one sees that it answers.

Secrets travel in the environment or in files that only their owner may read, never in a command
line.
"""

import hashlib
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from infra.stack.credentials import Credentials
from infra.stack.databases import with_driver
from infra.stack.health import all_answer, basic, has_ray_node, has_registered
from infra.stack.state import (
    LOOPBACK,
    StackError,
    StackFolder,
    StackState,
    make_private,
    write_private,
)

if TYPE_CHECKING:
    from infra.settings import Settings

PREFERRED_PORTS = {
    "prefect": 4200,
    "mlflow": 5000,
    "ray-head": 6379,
    "ray-dashboard": 8265,
}
PORTS_OF = {
    "prefect": ("prefect",),
    "mlflow": ("mlflow",),
    "ray-head": ("ray-head", "ray-dashboard"),
}
"""Ports that a part listens on at a number of ours; Ray's others are random."""

_OBJECT_STORE_BYTES = 256 * 1024**2
"""Of shared memory for each Ray node; data and weights go through the object store, not Ray's."""

# What a shell may hold for other servers must not reach ours.
_DROPPED = (
    "PREFECT_API_URL",
    "PREFECT_API_KEY",
    "PREFECT_API_AUTH_STRING",
    "PREFECT_API_DATABASE_CONNECTION_URL",
    "PREFECT_PROFILE",
    "MLFLOW_TRACKING_URI",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "PGPASSWORD",
    "RAY_ADDRESS",
    "RAY_AUTH_TOKEN",
    # Ray's nodes need more than one a machine (training/cluster/node.py).
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER",
    "PERENNIAL_PREFECT_DATABASE_URL",
    "PERENNIAL_MLFLOW_DATABASE_URL",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One server, or group of processes that lives and dies together."""

    name: str
    title: str
    """For people."""
    command: tuple[str, ...]
    environment: Mapping[str, str]
    """All of it."""
    url: str
    """Page or address for people; empty when it has none."""
    answers: Callable[[], bool]
    """Whether it does its work."""
    follows: str = ""
    """The part that must answer before this one starts."""
    falls_with: str = ""
    """The part whose new start this one does not survive."""


def parts_of(settings: "Settings", state: StackState, credentials: Credentials) -> list[Part]:
    """Every part of the stack, in the order of starting; ports are those of ``state``."""
    parts = [
        _prefect(settings, state, credentials),
        _mlflow(settings, state, credentials),
        _ray_head(settings, state, credentials),
    ]
    parts += [
        _ray_worker(settings, state, credentials, number)
        for number in range(1, state.ray_workers + 1)
    ]
    if state.lineages:
        parts.append(_serve(settings, state))
    parts.append(_watch(settings))
    return parts


def part_names(state: StackState) -> list[str]:
    """Names of the parts that there are to be."""
    workers = [f"ray-worker-{number}" for number in range(1, state.ray_workers + 1)]
    serving = ["serve"] if state.lineages else []
    return ["prefect", "mlflow", "ray-head", *workers, *serving, "watch"]


def prepare(settings: "Settings") -> None:
    """Write the files that the parts read when they start. Safe to repeat."""
    folder = StackFolder(settings.home_path)
    users = str(folder.mlflow_auth_database).replace("%", "%%")
    # The first password comes from the environment, so that it is in one file only.
    write_private(
        folder.mlflow_auth_config,
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{users}\n"
        "grant_default_workspace_access = false\n",
    )
    make_private(folder.mlflow_auth_database)
    (settings.home_path / "mlflow").mkdir(parents=True, exist_ok=True)
    (settings.home_path / "prefect").mkdir(parents=True, exist_ok=True)
    path = ray_folder(settings.home_path)
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if found.st_uid != os.getuid() or found.st_mode & 0o077 or path.is_symlink():
        raise StackError(
            f"{path} must be a folder that only this user may enter, and is not; remove it"
        )


def ray_folder(home: Path) -> Path:
    """Where Ray keeps sockets and logs; a socket needs a short path, which a home may not have."""
    digest = hashlib.sha256(str(home).encode()).hexdigest()[:8]
    return Path(tempfile.gettempdir()) / f"perennial-ray-{os.getuid()}-{digest}"


def _prefect(settings: "Settings", state: StackState, credentials: Credentials) -> Part:
    port = state.ports["prefect"]
    url = f"http://{LOOPBACK}:{port}"
    values = {
        "PREFECT_HOME": str(settings.home_path / "prefect"),
        "PREFECT_API_URL": state.prefect_api_url,
        "PREFECT_API_AUTH_STRING": credentials.prefect_login,
        "PREFECT_SERVER_API_AUTH_STRING": credentials.prefect_login,
        "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"{url},http://localhost:{port}",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        # Kept on disk: a run whose slot was forgotten, because the server died, ends itself.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
            "prefect.server.concurrency.lease_storage.filesystem"
        ),
        "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "5",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_LOGGING_LEVEL": "WARNING",
    }
    if database := settings.prefect_database_url.get_secret_value():
        values["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = with_driver(database, "asyncpg")
    start = ("-m", "prefect", "server", "start", "--host", LOOPBACK, "--port", str(port))
    return Part(
        name="prefect",
        title="Prefect server",
        command=(sys.executable, *start),
        environment=_environment(settings, values),
        url=url,
        answers=partial(
            all_answer,
            (f"{url}/api/ready", f"{url}/api/admin/version"),
            basic(credentials.prefect_login),
        ),
    )


def _mlflow(settings: "Settings", state: StackState, credentials: Credentials) -> Part:
    port = state.ports["mlflow"]
    home = settings.home_path
    database = settings.mlflow_database_url.get_secret_value()
    values = {
        "MLFLOW_BACKEND_STORE_URI": (
            with_driver(database, "psycopg2") if database else settings.mlflow_database_uri
        ),
        "MLFLOW_ARTIFACTS_DESTINATION": settings.stack_artifacts,
        "MLFLOW_AUTH_CONFIG_PATH": str(StackFolder(home).mlflow_auth_config),
        "MLFLOW_AUTH_ADMIN_USERNAME": credentials.mlflow_username,
        "MLFLOW_AUTH_ADMIN_PASSWORD": credentials.mlflow_password,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": credentials.mlflow_session_key,
        # Jobs run code that a request names; nothing of ours needs them.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    start = ("-m", "mlflow", "server", "--app-name", "basic-auth", "--workers", "1")
    # Against pages of other sites whose name points here (DNS rebinding).
    hosts = f"{LOOPBACK}:{port},localhost:{port}"
    where = ("--host", LOOPBACK, "--port", str(port), "--allowed-hosts", hosts)
    url = f"http://{LOOPBACK}:{port}"
    return Part(
        name="mlflow",
        title="MLflow server",
        command=(sys.executable, *start, *where),
        environment=_environment(settings, values),
        url=url,
        answers=partial(
            all_answer,
            (f"{url}/health", f"{url}/api/2.0/mlflow/experiments/search?max_results=1"),
            basic(f"{credentials.mlflow_username}:{credentials.mlflow_password}"),
        ),
    )


def _ray_head(settings: "Settings", state: StackState, credentials: Credentials) -> Part:
    dashboard = f"http://{LOOPBACK}:{state.ports['ray-dashboard']}"
    options = (
        "--head",
        f"--port={state.ports['ray-head']}",
        f"--dashboard-host={LOOPBACK}",
        f"--dashboard-port={state.ports['ray-dashboard']}",
        "--include-dashboard=true",
        f"--temp-dir={ray_folder(settings.home_path) / 'ray'}",
    )
    return _ray_node("ray-head", "Ray head", settings, state, credentials, options, dashboard)


def _ray_worker(
    settings: "Settings", state: StackState, credentials: Credentials, number: int
) -> Part:
    dashboard = f"http://{LOOPBACK}:{state.ports['ray-dashboard']}"
    title = f"Ray worker {number}"
    options = (f"--address={state.ray_address}",)
    name = f"ray-worker-{number}"
    return _ray_node(name, title, settings, state, credentials, options, dashboard)


def _ray_node(
    name: str,
    title: str,
    settings: "Settings",
    state: StackState,
    credentials: Credentials,
    options: tuple[str, ...],
    dashboard: str,
) -> Part:
    values = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(StackFolder(settings.home_path).ray_token),
        "RAY_USAGE_STATS_ENABLED": "0",
        # On SIGTERM a node would wait for requests that it serves; here there are none.
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    }
    shared = (
        "start",
        "--block",
        "--disable-usage-stats",
        f"--node-name={name}",
        f"--node-ip-address={LOOPBACK}",
        f"--num-cpus={os.cpu_count() or 1}",
        f"--object-store-memory={_OBJECT_STORE_BYTES}",
        # Random ones; the usual ranges would meet other servers' ports.
        "--min-worker-port=0",
        "--max-worker-port=0",
        "--dashboard-agent-listen-port=0",
    )
    is_head = name == "ray-head"
    return Part(
        name=name,
        title=title,
        command=(sys.executable, "-m", "training.cluster.node", *shared, *options),
        environment=_environment(settings, values),
        url=dashboard if is_head else "",
        answers=partial(
            has_ray_node, dashboard, credentials.ray_token, name, state.parts.get(name)
        ),
        follows="" if is_head else "ray-head",
        falls_with="" if is_head else "ray-head",
    )


def _serve(settings: "Settings", state: StackState) -> Part:
    record = state.parts.get("serve")
    values = {
        "PERENNIAL_STORAGE_ROOT": settings.storage_root,
        # Commands, which it runs, reach MLflow's tables beside the server.
        "PERENNIAL_MLFLOW_DATABASE_URL": settings.mlflow_database_url.get_secret_value(),
    }
    return Part(
        name="serve",
        title="perennial serve",
        command=(sys.executable, "-m", "flows.cli", "serve", *state.lineages),
        environment=_environment(settings, {k: v for k, v in values.items() if v}),
        url="",
        # It listens nowhere.
        answers=partial(has_registered, StackFolder(settings.home_path), record),
        follows="prefect",
    )


def _watch(settings: "Settings") -> Part:
    name = "watch"
    # It starts the others anew, so it needs what ``perennial up`` had.
    values = {
        "PERENNIAL_STORAGE_ROOT": settings.storage_root,
        "PERENNIAL_PREFECT_DATABASE_URL": settings.prefect_database_url.get_secret_value(),
        "PERENNIAL_MLFLOW_DATABASE_URL": settings.mlflow_database_url.get_secret_value(),
    }
    return Part(
        name=name,
        title="watch over the servers",
        command=(sys.executable, "-m", "infra.stack.watch"),
        environment=_environment(settings, {k: v for k, v in values.items() if v}),
        url="",
        # It listens nowhere, and whoever asks has seen that it lives.
        answers=partial(bool, name),
    )


def _environment(settings: "Settings", values: Mapping[str, str]) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name not in _DROPPED}
    return {**inherited, "PERENNIAL_HOME": str(settings.home_path), **values}
