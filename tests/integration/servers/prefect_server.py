"""A Prefect server with authentication, a process that can be killed and started again."""

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
from pathlib import Path

from tests.support.waiting import wait_for

_START_SECONDS = 90


class PrefectServer:
    """Always the same port, database and auth string, however often it is started."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port = _free_port()
        self.auth_string = f"admin:{secrets.token_hex(8)}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where the pages are."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def api_url(self) -> str:
        """Where the API is."""
        return f"{self.url}/api"

    def environment(self) -> dict[str, str]:
        """What a client must have in its environment."""
        return {"PREFECT_API_URL": self.api_url, "PREFECT_API_AUTH_STRING": self.auth_string}

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.home.mkdir(parents=True, exist_ok=True)
        log = (self.home / "server.log").open("ab")
        command = [sys.executable, "-m", "prefect", "server", "start"]
        self._process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(self.port)],
            env=self._server_environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        log.close()
        self._wait_until_it_answers()

    def kill(self) -> None:
        """What a power cut does to it: SIGKILL to the server and its children."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def stop(self) -> None:
        """Stop it, if it runs."""
        if self._process is not None:
            self.kill()

    def _server_environment(self) -> Mapping[str, str]:
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PREFECT_", "PERENNIAL_"))
        }
        database = self.home / "prefect.db"
        return {
            **environment,
            "PREFECT_HOME": str(self.home),
            "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{database}",
            "PREFECT_SERVER_API_AUTH_STRING": self.auth_string,
            "PREFECT_API_AUTH_STRING": self.auth_string,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            # Where the pages look for the API; else always on port 4200.
            "PREFECT_SERVER_UI_API_URL": self.api_url,
            "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
            "DO_NOT_TRACK": "1",
            # What keeps the slots of concurrency limits over a restart; a run whose slot is
            # forgotten ends itself.
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
                "prefect.server.concurrency.lease_storage.filesystem"
            ),
            "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "5",
        }

    def _wait_until_it_answers(self) -> None:
        token = base64.b64encode(self.auth_string.encode()).decode()
        request = urllib.request.Request(
            f"{self.api_url}/health", headers={"Authorization": f"Basic {token}"}
        )

        def answers() -> bool:
            assert self._process is not None
            assert self._process.poll() is None, self._last_words()
            try:
                with urllib.request.urlopen(request, timeout=5) as answer:
                    return answer.status == 200
            except (urllib.error.URLError, OSError):
                return False

        wait_for(answers, _START_SECONDS, "Prefect's server", self._last_words)

    def _last_words(self) -> str:
        return (self.home / "server.log").read_text(errors="replace")[-4000:]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
