"""Whether a part of the stack answers, asked of a server that says what Ray's dashboard says."""

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from infra.stack.health import has_ray_node
from infra.stack.state import PartRecord

RECORD = PartRecord(pid=7, started="8", machine="m", since="2026-01-01T12:00:00+00:00")
SINCE_MS = 1_767_268_800_000


class Dashboard(BaseHTTPRequestHandler):
    nodes: list[dict[str, Any]] = []  # noqa: RUF012
    is_well = True

    def do_GET(self) -> None:
        is_asked_for_health = self.path == "/api/gcs_healthz"
        self.send_response(503 if is_asked_for_health and not self.is_well else 200)
        self.end_headers()
        raylets = [{"raylet": node} for node in self.nodes]
        self.wfile.write(json.dumps({"data": {"summary": raylets}}).encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def dashboard(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(Dashboard, "is_well", True)
    with HTTPServer(("127.0.0.1", 0), Dashboard) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def node(name: str, state: str, started_ms: int) -> dict[str, Any]:
    # Protobuf's JSON writes an int64 as a string.
    return {"nodeName": name, "state": state, "startTimeMs": str(started_ms)}


@pytest.mark.parametrize(
    ("nodes", "is_there"),
    [
        ([node("ray-worker-1", "ALIVE", SINCE_MS + 2500)], True),
        # Killed a moment ago, and not yet missed by Ray.
        ([node("ray-worker-1", "ALIVE", SINCE_MS - 60_000)], False),
        ([node("ray-worker-1", "DEAD", SINCE_MS + 2500)], False),
        ([node("ray-worker-2", "ALIVE", SINCE_MS + 2500)], False),
        (
            [
                node("ray-worker-1", "ALIVE", SINCE_MS - 60_000),
                node("ray-worker-1", "ALIVE", SINCE_MS + 2500),
            ],
            True,
        ),
        ([{"nodeName": "ray-worker-1"}], False),
    ],
)
def test_the_dead_node_is_not_taken_for_its_successor_of_the_same_name(
    dashboard: str, monkeypatch: pytest.MonkeyPatch, nodes: list[dict[str, Any]], is_there: bool
) -> None:
    monkeypatch.setattr(Dashboard, "nodes", nodes)
    assert has_ray_node(dashboard, "token", "ray-worker-1", RECORD) is is_there


def test_a_node_is_there_only_while_the_control_store_answers(
    dashboard: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Dashboard, "nodes", [node("ray-worker-1", "ALIVE", SINCE_MS)])
    assert has_ray_node(dashboard, "token", "ray-worker-1", RECORD)
    assert not has_ray_node(dashboard, "token", "ray-worker-1", None)
    later = replace(RECORD, since="2026-01-01T12:00:01+00:00")
    assert not has_ray_node(dashboard, "token", "ray-worker-1", later)
    monkeypatch.setattr(Dashboard, "is_well", False)
    assert not has_ray_node(dashboard, "token", "ray-worker-1", RECORD)
