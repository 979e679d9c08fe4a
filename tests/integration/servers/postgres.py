"""A PostgreSQL server for tests: a private cluster with the databases mlflow and prefect."""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path

_OWNER = "postgres"
"""PostgreSQL refuses to run as root; Debian's package makes this user."""


@dataclass(frozen=True, slots=True)
class Postgres:
    """A running server on loopback; every role has a password."""

    port: int
    password: str
    """Of each of the roles mlflow and prefect."""
    admin_password: str = field(repr=False)

    def url(self, database: str) -> str:
        """Of the database ``mlflow`` or ``prefect``, which tests share."""
        return f"postgresql://{database}:{self.password}@127.0.0.1:{self.port}/{database}"

    def new_database(self, owner: str) -> str:
        """URL of an empty database that belongs to the role ``mlflow`` or ``prefect``."""
        name = f"{owner}_{secrets.token_hex(4)}"
        _sql(self, f"create database {name} owner {owner}")
        return f"postgresql://{owner}:{self.password}@127.0.0.1:{self.port}/{name}"


@contextlib.contextmanager
def running_postgres() -> Generator[Postgres]:
    """Start a cluster (2 s), and stop it at the end."""
    binaries = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parts[-2]))
    # Not pytest's own folder: the owner must be able to pass through.
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    folder.chmod(0o755)
    data = folder / "data"
    server = Postgres(_free_port(), secrets.token_hex(12), secrets.token_hex(12))
    try:
        password_file = folder / "password"
        password_file.write_text(server.admin_password)
        shutil.chown(password_file, _OWNER)
        shutil.chown(folder, _OWNER)
        _as_owner(
            binaries / "initdb", "-D", data, "-U", "postgres", f"--pwfile={password_file}",
            "-A", "scram-sha-256", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync",
        )  # fmt: skip
        with (data / "postgresql.conf").open("a") as file:
            file.write(
                f"listen_addresses = '127.0.0.1'\nport = {server.port}\n"
                f"unix_socket_directories = '{folder}'\nmax_connections = 100\n"
                "fsync = off\nsynchronous_commit = off\nfull_page_writes = off\n"
            )
        control = (binaries / "pg_ctl", "-D", data, "-w", "-t", "60")
        _as_owner(*control, "-l", folder / "server.log", "start")
        try:
            for name in ("mlflow", "prefect"):
                _sql(server, f"create role {name} login password '{server.password}'")
                _sql(server, f"create database {name} owner {name}")
            yield server
        finally:
            _as_owner(*control, "-m", "fast", "stop")
    finally:
        shutil.rmtree(folder)


def _sql(server: Postgres, statement: str) -> None:
    call = ["psql", "-qXh", "127.0.0.1", "-p", str(server.port), "-U", "postgres", "-c", statement]
    environment = {**os.environ, "PGPASSWORD": server.admin_password}
    subprocess.run(call, check=True, timeout=60, env=environment)


def _as_owner(*command: str | Path) -> None:
    # A pipe would be held open by the server.
    subprocess.run(
        ["runuser", "-u", _OWNER, "--", *map(str, command)],
        check=True,
        timeout=90,
        stdout=subprocess.DEVNULL,
        cwd="/",
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
