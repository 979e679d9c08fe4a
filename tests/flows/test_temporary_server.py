"""A command's own Prefect server outlives the Ctrl-C that ends the command, and nothing else."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.server.api.server import SubprocessASGIServer
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.die_with_parent import tied_to_this_process
from flows.temporary_server import start_temporary_server
from infra.stack.processes import MARK, Process, members, stop
from tests.support.waiting import wait_for

# The server is waited for before the flow begins, so the signal comes while it starts.
COMMAND = """
from flows.cli.running import run
run(lambda: exit("too late"))
"""
UVICORN = [b"-m", b"uvicorn"]


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[str]:
    mark = f"{tmp_path}:command"
    yield mark
    stop(mark.__eq__, grace_seconds=0)


def server_of(mark: str) -> Process | None:
    """The server itself, once it is no longer the program that ties it to its command."""
    for process in members(mark.__eq__):
        command = Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")
        if command[1:3] == UVICORN:
            return process
    return None


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 0)]
)
def test_whatever_ends_a_command_that_has_just_begun_ends_its_server(
    tmp_path: Path, mark: str, number: signal.Signals, code: int
) -> None:
    places = ("PREFECT_API_URL", "PERENNIAL_PREFECT_API_URL")
    environment = {name: value for name, value in os.environ.items() if name not in places}
    environment |= {"PERENNIAL_HOME": str(tmp_path), "PREFECT_HOME": str(tmp_path), MARK: mark}
    # In a session of its own: ``stop`` ends all of a session, which otherwise is that of the tests.
    command = subprocess.Popen(
        [sys.executable, "-c", COMMAND], env=environment, start_new_session=True
    )
    server = wait_for(lambda: server_of(mark), 60, "the server")
    assert os.getsid(server.pid) == server.pid
    command.send_signal(number)
    assert command.wait(30) == code
    wait_for(lambda: not members(mark.__eq__), 5, "the end of the server")


def test_a_command_that_dies_before_its_server_is_tied_to_it_leaves_none() -> None:
    # A child of the shell: as if this process had died, and another one were its parent now.
    tied = subprocess.run(
        ["/bin/sh", "-c", '"$@"; exit $?', "sh", *tied_to_this_process(["/bin/echo", "started"])],
        capture_output=True,
        text=True,
    )
    assert (tied.returncode, tied.stdout) == (1, "")
    assert tied.stderr.endswith(f"process {os.getpid()} has started this one, and is gone\n")


def test_only_the_server_is_tied(monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, "-c", "input()"]
    started: list[subprocess.Popen[bytes]] = []

    def start(_: SubprocessASGIServer) -> None:
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE))

    monkeypatch.setattr(SubprocessASGIServer, "start", start)
    with temporary_settings({PREFECT_API_URL: None}):
        start_temporary_server()
    start(SubprocessASGIServer())
    for process in started:
        process.communicate(b"\n")
    assert [process.args for process in started] == [tied_to_this_process(command), command]
    assert [process.returncode for process in started] == [0, 0]


def test_no_server_is_started_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(SubprocessASGIServer, "start")
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api"}):
        start_temporary_server()


def test_prefect_still_starts_a_plain_child(monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {}
    monkeypatch.setattr(subprocess, "Popen", lambda **found: options.update(found))
    SubprocessASGIServer(port=1)._run_uvicorn_command()
    assert set(options) == {"args", "env"}, "see what of flows/temporary_server.py can go"
    assert options["args"][:3] == [sys.executable, "-m", "uvicorn"]


def test_who_has_a_server_imports_none() -> None:
    asked = "from flows.temporary_server import start_temporary_server as start; start()"
    told = "import sys; print('prefect.server.api.server' in sys.modules)"
    ended = subprocess.run(
        [sys.executable, "-c", f"{asked}; {told}"],
        env={**os.environ, "PREFECT_API_URL": "http://127.0.0.1:1/api"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout == "False\n"
