import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.stack.processes import MARK, Process, is_alive, members, spawn, stop
from tests.support.waiting import wait_for

# A child that outlives its parent, in a session of its own, and one that ignores SIGTERM.
FAMILY = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print("ready", flush=True)
time.sleep(600)
"""


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[str]:
    mark = f"{tmp_path}:part"
    yield mark
    stop(mark.__eq__, grace_seconds=0)


def start(tmp_path: Path, mark: str, code: str) -> Process:
    return spawn(
        [sys.executable, "-c", code],
        environment=dict(os.environ),
        mark=mark,
        log=tmp_path / "part.log",
        folder=tmp_path,
    )


def started_family(tmp_path: Path, mark: str) -> Process:
    first = start(tmp_path, mark, FAMILY)
    wait_for(lambda: "ready" in (tmp_path / "part.log").read_text(), 10, "the part to be ready")
    return first


def test_all_processes_of_a_part_are_found_after_the_first_one_was_killed(
    tmp_path: Path, mark: str
) -> None:
    first = started_family(tmp_path, mark)
    assert len(members(mark.__eq__)) == 2
    os.kill(first.pid, signal.SIGKILL)
    wait_for(lambda: not is_alive(first), 10, "its end")
    (orphan,) = members(mark.__eq__)
    assert orphan.pid != first.pid


def test_stopping_ends_those_that_ignore_sigterm_and_those_that_moved_away(
    tmp_path: Path, mark: str
) -> None:
    started_family(tmp_path, mark)
    assert stop(mark.__eq__, grace_seconds=0.3) == 2
    assert members(mark.__eq__) == []
    assert stop(mark.__eq__, grace_seconds=0.3) == 0


def test_a_suspended_process_is_stopped_without_being_killed(tmp_path: Path, mark: str) -> None:
    code = """
import signal, sys, time
def end(*_):
    print("ended well", flush=True)
    sys.exit()
signal.signal(signal.SIGTERM, end)
print("ready", flush=True)
time.sleep(600)
"""
    process = start(tmp_path, mark, code)
    wait_for(lambda: "ready" in (tmp_path / "part.log").read_text(), 10, "the part to be ready")
    os.kill(process.pid, signal.SIGSTOP)
    stop(mark.__eq__, grace_seconds=10)
    assert "ended well" in (tmp_path / "part.log").read_text()


def test_what_is_not_ours_is_never_found(tmp_path: Path, mark: str) -> None:
    other = {**os.environ, MARK: f"{mark}-of-another"}
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], env=other) as one:
        try:
            start(tmp_path, mark, "import time; time.sleep(600)")
            stop(mark.__eq__, grace_seconds=5)
            assert one.poll() is None
        finally:
            one.kill()


def test_this_process_is_not_found_though_it_carries_the_mark(tmp_path: Path, mark: str) -> None:
    code = (
        "from infra.stack.processes import members; import os; "
        f"print([one.pid for one in members({mark!r}.__eq__)], os.getpid())"
    )
    environment = {**os.environ, MARK: mark}
    out = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert out.stdout.startswith("[] ")


def test_a_reused_pid_is_another_process(tmp_path: Path, mark: str) -> None:
    process = start(tmp_path, mark, "import time; time.sleep(600)")
    assert is_alive(process)
    assert not is_alive(Process(process.pid, str(int(process.started) - 1)))


def test_a_process_that_ended_is_dead_though_its_parent_never_asked(
    tmp_path: Path, mark: str
) -> None:
    process = start(tmp_path, mark, "pass")
    wait_for(lambda: not is_alive(process), 10, "its end")


def test_a_log_is_kept_once_and_is_for_its_owner_only(tmp_path: Path, mark: str) -> None:
    for word in ("first", "second"):
        process = start(tmp_path, mark, f"print({word!r})")
        wait_for(lambda process=process: not is_alive(process), 10, "its end")
    assert (tmp_path / "part.log").read_text() == "second\n"
    assert (tmp_path / "part.log.1").read_text() == "first\n"
    assert (tmp_path / "part.log").stat().st_mode & 0o777 == 0o600


def test_the_first_process_ends_its_children_itself(tmp_path: Path, mark: str) -> None:
    code = """
import signal, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
def end(*_):
    print("child asked before:", child.poll() is not None, flush=True)
    child.terminate()
    child.wait()
    sys.exit()
signal.signal(signal.SIGTERM, end)
print("ready", flush=True)
signal.pause()
"""
    start(tmp_path, mark, code)
    wait_for(lambda: "ready" in (tmp_path / "part.log").read_text(), 10, "the part to be ready")
    stop(mark.__eq__, grace_seconds=10)
    assert "child asked before: False" in (tmp_path / "part.log").read_text()
