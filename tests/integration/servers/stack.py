"""The servers of ``perennial up`` in a home of a test's own, asked over HTTP and by command."""

import base64
import contextlib
import http.client
import json
import os
import subprocess
import sys
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.support.waiting import wait_for

_FOREIGN = ("AWS_", "MLFLOW_", "PERENNIAL_", "PG", "PREFECT_", "RAY_")
"""Beginnings of variables that the tester's shell, or another test, may hold."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Of a server."""

    status: int
    body: bytes

    @property
    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Stack:
    """One home and its servers; commands are processes of their own, as in a shell."""

    home: Path
    variables: Mapping[str, str] = field(default_factory=dict[str, str])

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """Start ``perennial <arguments>``."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(_FOREIGN)}
        return subprocess.Popen(
            [sys.executable, "-m", "flows.cli", *map(str, arguments)],
            env={
                **inherited,
                **self.variables,
                "PERENNIAL_HOME": str(self.home),
                "OMP_NUM_THREADS": "1",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run ``perennial <arguments>`` to its end."""
        with self.start(*arguments) as process:
            try:
                out, err = process.communicate(timeout=300)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def succeed(self, *arguments: str | Path) -> str:
        """Run a command that must end well; returns what it printed."""
        ended = self.run(*arguments)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    @property
    def state(self) -> dict[str, Any]:
        """What ``up`` remembers."""
        return json.loads((self.home / "stack" / "state.json").read_text())

    @property
    def secrets(self) -> dict[str, str]:
        """The passwords."""
        return json.loads((self.home / "stack" / "secrets.json").read_text())

    def pids(self) -> dict[str, int]:
        """Of the first process of each part."""
        return {name: part["pid"] for name, part in self.state["parts"].items()}

    def conditions(self) -> dict[str, str]:
        """As ``perennial status`` tells them; its exit code must fit."""
        ended = self.run("status", "--json")
        found = {row["part"]: row["condition"] for row in json.loads(ended.stdout)["servers"]}
        is_healthy = set(found.values()) == {"running"}
        assert ended.returncode == (0 if is_healthy else 1), ended.stderr
        return found

    def processes(self) -> list[psutil.Process]:
        """Every living process that was started for this home, found by its environment."""
        found: dict[int, psutil.Process] = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                mark = process.environ().get("PERENNIAL_STACK_MARK", "")
                if mark.startswith(f"{self.home}:"):
                    for one in [process, *process.children(recursive=True)]:
                        found[one.pid] = one
        return [one for one in found.values() if one.status() != psutil.STATUS_ZOMBIE]

    def ask(
        self,
        server: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Any = None,
        method: str = "",
    ) -> Answer:
        """Ask a server, by the name of its port; POST when there is a body."""
        # SQLite makes writers wait for each other, a minute at most.
        connection = http.client.HTTPConnection(
            "127.0.0.1", self.state["ports"][server], timeout=90
        )
        sent = None if body is None else json.dumps(body)
        kind = {} if body is None else {"Content-Type": "application/json"}
        with contextlib.closing(connection):
            verb = method or ("GET" if body is None else "POST")
            connection.request(verb, path, body=sent, headers={**kind, **(headers or {})})
            answer = connection.getresponse()
            return Answer(answer.status, answer.read())

    def login(self, server: str) -> dict[str, str]:
        """The header that opens a server."""
        secrets = self.secrets
        if server == "prefect":
            return basic(secrets["prefect_login"])
        if server == "mlflow":
            return basic(f"{secrets['mlflow_username']}:{secrets['mlflow_password']}")
        return {"Authorization": f"Bearer {secrets['ray_token']}"}

    def ask_prefect(self, path: str, *, headers: Mapping[str, str], body: Any = None) -> Any:
        """What Prefect answers as its pages are answered: busy (503) is not the end.

        Its route for a run of a deployment begins to read before it writes, which SQLite refuses
        when another writer came between; Prefect's own client and its pages ask again.
        """

        def settled() -> Answer | None:
            answer = self.ask("prefect", path, headers=headers, body=body)
            return None if answer.status == 503 else answer

        answer = wait_for(settled, 30, f"Prefect's answer to {path}", lambda: self.log("prefect"))
        assert answer.status < 300, (path, answer)
        return answer.json

    def csrf(self) -> dict[str, str]:
        """The headers with which Prefect's own pages ask."""
        client = {"Prefect-Csrf-Client": "test", **self.login("prefect")}
        token = self.ask_prefect("/api/csrf-token?client=test", headers=client)["token"]
        return {**client, "Prefect-Csrf-Token": token}

    def flow_runs(self) -> list[dict[str, Any]]:
        """All flow runs that Prefect knows."""
        return self.ask_prefect("/api/flow_runs/filter", headers=self.csrf(), body={})

    def flow_run(self, run: str) -> dict[str, Any]:
        """One flow run."""
        return self.ask_prefect(f"/api/flow_runs/{run}", headers=self.login("prefect"))

    def trigger(self, deployment: str) -> str:
        """Start a run of ``<flow>/<lineage>``, as the button does; returns the run's id."""
        path = f"/api/deployments/name/{deployment}"
        found = self.ask_prefect(path, headers=self.login("prefect"))
        path = f"/api/deployments/{found['id']}/create_flow_run"
        return self.ask_prefect(path, headers=self.csrf(), body={})["id"]

    def log(self, part: str) -> str:
        """What a part wrote."""
        return (self.home / "stack" / "logs" / f"{part}.log").read_text(errors="replace")

    def model_versions(self) -> list[dict[str, Any]]:
        """All model versions that MLflow shows."""
        path = "/api/2.0/mlflow/model-versions/search"
        return self.ask("mlflow", path, headers=self.login("mlflow")).json.get("model_versions", [])


def basic(login: str) -> dict[str, str]:
    """The header of HTTP basic authentication for ``user:password``."""
    return {"Authorization": "Basic " + base64.b64encode(login.encode()).decode()}


@contextlib.contextmanager
def stack_in(home: Path, variables: Mapping[str, str]) -> Generator[Stack]:
    """A stack that is not up yet, and is down at the end, whatever happened."""
    stack = Stack(home, variables)
    try:
        yield stack
    finally:
        stack.run("down")
        for process in stack.processes():
            process.kill()
