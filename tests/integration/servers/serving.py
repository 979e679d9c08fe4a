"""``perennial serve`` as a process, and what its Prefect server says about its runs."""

import base64
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from storage.head import Head, read_head
from storage.layout import Layout
from storage.lease_record import is_held, read_lease
from storage.objects import ObjectStore, open_store
from tests.integration.servers.prefect_server import PrefectServer
from tests.support.tiny_lineage import TinyLineage
from tests.support.waiting import wait_for

T = TypeVar("T")

LONG = {"first_tokens": 600 * 16 * 32, "checkpoint_every_tokens": 20 * 16 * 32}
"""A budget of seconds, for what happens in the middle of a training."""
FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


class Serving:
    """A folder of lineages that is served, with one home."""

    def __init__(self, prefect: PrefectServer, folder: Path) -> None:
        self.prefect = prefect
        self.home = folder / "home"
        self.lineages = folder / "lineages"
        self.lineages.mkdir(parents=True)
        self.log = folder / "serve.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process is not None
        return self._process.pid

    @property
    def said(self) -> str:
        """What it logged."""
        return self.log.read_text(errors="replace")

    @property
    def store(self) -> ObjectStore:
        """The object store of its home."""
        return open_store((self.home / "store").as_uri())

    def head(self, name: str) -> Head:
        """The newest state of a lineage."""
        head = read_head(self.store, Layout(name))
        assert head is not None
        return head

    def checkpoints(self, name: str) -> dict[Path, int]:
        """Manifests of the checkpoints of a lineage's updates, and when they were written."""
        folder = self.home / "store" / "lineages" / name / "updates"
        found = folder.glob("*/checkpoints/*/manifest.json")
        return {path: path.stat().st_mtime_ns for path in found}

    def wait_for_checkpoint(self, name: str, seconds: float) -> None:
        """Wait until a training has saved something."""
        self.wait_for(lambda: self.checkpoints(name), seconds, f"a checkpoint of {name}")

    def assert_no_step_was_saved_twice(self, name: str) -> None:
        """Fail if an attempt began anew what an earlier one had saved."""
        saved = re.findall(rf"saved lineages/{name}/\S+/step-(\d+)$", self.said, re.MULTILINE)
        steps = list(map(int, saved))
        assert steps == sorted(set(steps)), f"checkpoints of {name} in the order of saving: {steps}"

    def wait_for_free_lease(self, name: str) -> None:
        """Wait until nobody holds a lineage's lease."""

        def is_free() -> bool:
            record = read_lease(self.store, Layout(name))
            return record is None or not is_held(record)

        self.wait_for(is_free, 20, f"the lease of {name}")

    def file(self, name: str) -> str:
        """Where the YAML of a lineage is."""
        return str(self.lineages / f"{name}.yaml")

    def environment(self) -> dict[str, str]:
        """What ``perennial`` needs."""
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PREFECT_", "PERENNIAL_", "MLFLOW_"))
        }
        return {
            **clean,
            **self.prefect.environment(),
            "PERENNIAL_HOME": str(self.home),
            "OMP_NUM_THREADS": "1",
            # What Prefect prints must be seen when it is.
            "PYTHONUNBUFFERED": "1",
        }

    def start(self) -> None:
        """Start it; it may take seconds to be ready."""
        command = [sys.executable, "-m", "flows.cli", "serve", str(self.lineages)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, env=self.environment(), stdout=log, stderr=log, start_new_session=True
            )

    def end(self, number: int) -> int:
        """Send a signal to it alone, and wait for its end; returns the exit code."""
        assert self._process is not None
        self._process.send_signal(number)
        code = self._process.wait(timeout=60)
        self._process = None
        return code

    def stop(self) -> None:
        """End it and all that it started, if it runs."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def add(self, name: str, **changes: Any) -> TinyLineage:
        """A new lineage, which the running service is to find by itself."""
        lineage = TinyLineage(self.lineages.parent / name)
        lineage.write(name=name, **changes)
        self.publish(lineage, name)
        return lineage

    def publish(self, lineage: TinyLineage, name: str) -> None:
        """Put the YAML of ``lineage`` where the service looks."""
        text = lineage.file.read_text()
        for domain in ("prose", "ledger"):
            text = text.replace(f"uri: {domain}/", f"uri: {lineage.folder}/{domain}/")
        part = self.lineages.parent / f"{name}.part"
        part.write_text(text)
        part.rename(self.lineages / f"{name}.yaml")

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """What Prefect's API answers; an HTTPError for a refusal."""
        token = base64.b64encode(self.prefect.auth_string.encode()).decode()
        request = urllib.request.Request(
            f"{self.prefect.api_url}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Basic {token}", "Content-Type": "application/json"},
        )
        for _ in range(20):
            try:
                # SQLite makes writers wait for each other, a minute at most.
                with urllib.request.urlopen(request, timeout=90) as answer:
                    text = answer.read()
                return json.loads(text) if text else None
            except urllib.error.HTTPError as error:
                # SQLite is busy; Prefect's own client and its pages try again as well.
                if error.code != 503:
                    raise
                time.sleep(0.5)
        raise TimeoutError(f"Prefect's server stayed busy: {method} {path}")

    def deployment(self, name: str) -> dict[str, Any]:
        """A deployment by ``flow/lineage``, waiting until it is there."""

        def read() -> dict[str, Any] | None:
            try:
                return self.call("GET", f"/deployments/name/{name}")
            except urllib.error.HTTPError as error:
                if error.code != 404:
                    raise
                return None

        return self.wait_for(read, 60, f"deployment {name}")

    def trigger(self, name: str, key: str | None = None, **parameters: Any) -> str:
        """Start a run of a deployment, as the button does; returns the run's id."""
        body: dict[str, Any] = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
        if key is not None:
            body["idempotency_key"] = key
        path = f"/deployments/{self.deployment(name)['id']}/create_flow_run"
        return self.call("POST", path, body)["id"]

    def run(self, run: str) -> dict[str, Any]:
        """A flow run."""
        return self.call("GET", f"/flow_runs/{run}")

    def planned(self, name: str) -> list[dict[str, Any]]:
        """The runs of a deployment that a timetable will start."""
        body = {
            "flow_runs": {
                "deployment_id": {"any_": [self.deployment(name)["id"]]},
                "state": {"type": {"any_": ["SCHEDULED"]}},
            }
        }
        runs = self.call("POST", "/flow_runs/filter", body)
        return [run for run in runs if run["auto_scheduled"]]

    def states(self, run: str) -> list[str]:
        """The names of the states that a run went through."""
        states = self.call("GET", f"/flow_run_states/?flow_run_id={run}")
        return [state["name"] for state in sorted(states, key=lambda state: state["timestamp"])]

    def set_state(self, run: str, kind: str, name: str) -> None:
        """What the buttons Cancel and Retry do."""
        body = {"state": {"type": kind, "name": name}, "force": False}
        answer = self.call("POST", f"/flow_runs/{run}/set_state", body)
        assert answer["status"] == "ACCEPT", answer

    def end_of(self, run: str, seconds: float = 90) -> dict[str, Any]:
        """A run's final state, waiting for it."""

        def final() -> dict[str, Any] | None:
            state = self.run(run)["state"]
            return state if state["type"] in FINAL else None

        return self.wait_for(final, seconds, f"the end of run {run}")

    def wait_for_state(self, run: str, name: str, seconds: float = 60) -> None:
        """Wait until a run is, or was, in a state."""
        self.wait_for(lambda: name in self.states(run), seconds, f"state {name} of {run}")

    def wait_for(self, look: Callable[[], T | None], seconds: float, what: str) -> T:
        """Poll until ``look`` finds something."""
        return wait_for(look, seconds, what, lambda: f"; it said:\n{self.said[-6000:]}")
