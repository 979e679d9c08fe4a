"""A command's own Prefect server outlives the Ctrl-C that ends the command."""

import inspect
import os
import subprocess
import sys

import pytest
from prefect.server.api.server import SubprocessASGIServer
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.temporary_server import start_temporary_server


def test_the_server_is_started_in_a_session_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []

    def start(_: SubprocessASGIServer) -> None:
        started.append(subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE))

    monkeypatch.setattr(SubprocessASGIServer, "start", start)
    with temporary_settings({PREFECT_API_URL: None}):
        start_temporary_server()
    start(SubprocessASGIServer())
    server, other = started
    assert os.getsid(server.pid) == server.pid
    assert os.getsid(other.pid) == os.getsid(0)
    for process in started:
        process.communicate(b"\n")


def test_no_server_is_started_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(SubprocessASGIServer, "start")
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api"}):
        start_temporary_server()


def test_prefect_still_leaves_its_server_to_the_signals_of_the_terminal() -> None:
    source = inspect.getsource(SubprocessASGIServer._run_uvicorn_command)
    assert "start_new_session" not in source, "flows/temporary_server.py can go"
