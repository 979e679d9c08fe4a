"""What ``perennial up`` remembers in ``<home>/stack/state.json``; holds no secret.

Every command reads it to find the servers, so importing this module must stay cheap.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

LOOPBACK = "127.0.0.1"
SQLITE = "sqlite"
"""A database that is a file in home."""


class StackError(Exception):
    """The servers of this machine could not be started, stopped or reached."""


@dataclass(frozen=True, slots=True)
class StackFolder:
    """Where the stack of one home keeps its files; readable by its owner only."""

    home: Path

    @property
    def path(self) -> Path:
        """The folder itself."""
        return self.home / "stack"

    @property
    def state(self) -> Path:
        """Ports, processes, lineages."""
        return self.path / "state.json"

    @property
    def secrets(self) -> Path:
        """The passwords, for people and for commands."""
        return self.path / "secrets.json"

    @property
    def ray_token(self) -> Path:
        """Ray's token alone, as Ray wants it."""
        return self.path / "ray-token"

    @property
    def mlflow_auth_config(self) -> Path:
        """Where MLflow finds its users."""
        return self.path / "mlflow-auth.ini"

    @property
    def mlflow_auth_database(self) -> Path:
        """MLflow's users."""
        return self.path / "mlflow-auth.db"

    @property
    def lock(self) -> Path:
        """Held by whoever starts or stops."""
        return self.path / "lock"

    @property
    def serving(self) -> Path:
        """Pid of the ``perennial serve`` that has registered its lineages."""
        return self.path / "serving"

    def log(self, part: str) -> Path:
        """What a part writes to standard output and error."""
        return self.path / "logs" / f"{part}.log"

    def make(self) -> None:
        """Create the folders, for their owner only."""
        for path in (self.path, self.path / "logs"):
            path.mkdir(parents=True, exist_ok=True)
            path.chmod(0o700)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartRecord:
    """The process that a part was started as."""

    pid: int
    started: str
    """Start time of the process in clock ticks since boot, which tells it from a reused pid."""
    machine: str
    """Boot and process namespace in which ``pid`` means something."""
    since: str
    """UTC, ISO 8601, for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StackState:
    """Ports, processes and lineages; survives ``perennial down``."""

    is_up: bool = False
    """Whether commands are to use the servers: set by ``up``, cleared by ``down``."""
    ports: Mapping[str, int] = field(default_factory=dict[str, int])
    """The port of each server, kept so that it stays the same while it is free."""
    databases: Mapping[str, str] = field(default_factory=dict[str, str])
    """Where each server keeps its tables, without passwords."""
    lineages: tuple[str, ...] = ()
    """Files that ``perennial serve`` is started with."""
    ray_workers: int = 0
    """Ray nodes beside the head."""
    parts: Mapping[str, PartRecord] = field(default_factory=dict[str, PartRecord])
    """What was started and not stopped."""

    @property
    def prefect_api_url(self) -> str:
        """API of the Prefect server."""
        return f"http://{LOOPBACK}:{self.ports['prefect']}/api"

    @property
    def mlflow_url(self) -> str:
        """Page and API of the MLflow server."""
        return f"http://{LOOPBACK}:{self.ports['mlflow']}"

    @property
    def ray_address(self) -> str:
        """Where a driver joins the Ray cluster."""
        return f"{LOOPBACK}:{self.ports['ray-head']}"


def read_state(folder: StackFolder) -> StackState:
    """The remembered state, the default when nothing was ever started.

    Raises:
        StackError: The file is damaged.
    """
    try:
        values: dict[str, Any] = json.loads(folder.state.read_text(encoding="utf-8"))
        values["parts"] = {name: PartRecord(**part) for name, part in values["parts"].items()}
        values["lineages"] = tuple(values["lineages"])
        return StackState(**values)
    except FileNotFoundError:
        return StackState()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StackError(
            f"{folder.state} must be what 'perennial up' wrote, and cannot be read ({error}); "
            "remove it and run 'perennial up'"
        ) from error


def write_state(folder: StackFolder, state: StackState) -> None:
    """Replace the remembered state, whole or not at all."""
    write_private(folder.state, json.dumps(asdict(state), indent=2, sort_keys=True) + "\n")


def make_private(path: Path) -> None:
    """Make a file that only its owner may read, empty if it is not there, for others to fill."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    os.fchmod(descriptor, 0o600)
    os.close(descriptor)


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
