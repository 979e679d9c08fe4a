"""A real ``mlflow server`` with basic auth on loopback, which can be killed and started again."""

import base64
import os
import secrets
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.waiting import wait_for

_START_SECONDS = 90
_STOP_SECONDS = 20


@dataclass(kw_only=True)
class MlflowServer:
    """A server whose address, users and data survive ``kill`` and ``start``.

    Args:
        folder: For database, users, artifacts and log; mode 0700.
        backend_uri: Database; a SQLite file in ``folder`` when empty.
        artifacts_uri: Where proxied artifacts go; a folder in ``folder`` when empty.
        environment: For the server's process: credentials of the object store.
    """

    folder: Path
    backend_uri: str = ""
    artifacts_uri: str = ""
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    username: str = "admin"
    password: str = field(default_factory=lambda: secrets.token_urlsafe(18), repr=False)
    port: int = field(default_factory=lambda: free_port())

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._process: subprocess.Popen[bytes] | None = None
        # MLflow wants one for its forms; another one at the next start would end all sessions.
        self._flask_key = secrets.token_urlsafe(32)

    @property
    def uri(self) -> str:
        """What PERENNIAL_MLFLOW_URI is set to."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def database(self) -> Path:
        """The SQLite file, when no other backend was given."""
        return self.folder / "mlflow.db"

    @property
    def log(self) -> str:
        """What the server wrote since it was made."""
        return (self.folder / "server.log").read_text(errors="replace")

    def client_environment(self) -> dict[str, str]:
        """What a command needs to speak to the server."""
        return {
            "PERENNIAL_MLFLOW_URI": self.uri,
            "MLFLOW_TRACKING_USERNAME": self.username,
            "MLFLOW_TRACKING_PASSWORD": self.password,
        }

    def start(self) -> "MlflowServer":
        """Start it on its own port and data, and wait until it answers."""
        assert self._process is None
        arguments = (
            *(sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth"),
            *("--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"),
            *("--artifacts-destination", self.artifacts_uri or str(self.folder / "artifacts")),
        )
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                arguments,
                cwd=self.folder,
                env=self._server_environment(),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._wait_until_it_answers()
        return self

    def kill(self) -> None:
        """``kill -9`` of the server and its workers."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it in order; nothing happens when it does not run."""
        self._end(signal.SIGTERM)

    def get(
        self,
        path: str,
        *,
        password: str | None = None,
        method: str = "GET",
        body: bytes | None = None,
    ) -> tuple[int, bytes]:
        """Status and body of a request; without a password it is sent without authentication."""
        request = urllib.request.Request(f"{self.uri}{path}", body, method=method)
        request.add_header("Content-Type", "application/json")
        if password is not None:
            login = base64.b64encode(f"{self.username}:{password}".encode()).decode()
            request.add_header("Authorization", f"Basic {login}")
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, refused.read()

    def _server_environment(self) -> dict[str, str]:
        users = self.folder / "basic_auth.ini"
        descriptor = os.open(users, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(
                "[mlflow]\ndefault_permission = NO_PERMISSIONS\n"
                f"database_uri = sqlite:///{self.folder / 'basic_auth.db'}\n"
                f"admin_username = {self.username}\nadmin_password = {self.password}\n"
                # Else every request hashes the password anew, which takes longer than its work.
                "auth_cache_ttl_seconds = 60\n"
            )
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("MLFLOW_", "PERENNIAL_", "PYTEST_"))
        }
        return {
            **kept,
            # Not an argument: the URI of a database holds its password.
            "MLFLOW_BACKEND_STORE_URI": self.backend_uri or f"sqlite:///{self.database}",
            "MLFLOW_AUTH_CONFIG_PATH": str(users),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": self._flask_key,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
            **self.environment,
        }

    def _wait_until_it_answers(self) -> None:
        def answers() -> bool:
            if self._process is None or self._process.poll() is not None:
                self._process = None
                raise RuntimeError(f"mlflow server ended at its start: {self.log[-3000:]}")
            try:
                return self.get("/health")[0] == 200
            except OSError:
                return False

        try:
            wait_for(answers, _START_SECONDS, "MLflow's server", lambda: self.log[-3000:])
        except TimeoutError:
            self.kill()
            raise

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        os.killpg(self._process.pid, how)
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(_STOP_SECONDS)
        self._process = None


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
