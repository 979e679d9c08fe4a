"""Processes of a part: started in a session of their own, found again, stopped to the last one.

Every process of a part carries a mark in its environment. That is how all of them are found when
the first one was killed, and how nothing else is ever signalled. Reads ``/proc``, so Linux only.
"""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.stack.state import StackError

MARK = "PERENNIAL_STACK_MARK"
"""Environment variable with home and part."""

_POLL_SECONDS = 0.05
_KILL_SECONDS = 10.0
"""How long the kernel may take to end what was killed."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process, told from a later one with the same pid by its start time."""

    pid: int
    started: str
    """Clock ticks since boot."""


@dataclass(frozen=True, slots=True)
class _Entry:
    process: Process
    parent: int
    session: int
    mark: str


def this_machine() -> str:
    """What must be equal for a pid to mean the same process: boot and process namespace."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot}/{os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115  not a path


def spawn(
    command: Sequence[str], *, environment: Mapping[str, str], mark: str, log: Path, folder: Path
) -> Process:
    """Start ``command`` in a session of its own, with its output in ``log``.

    Args:
        command: No secret may be in it: everybody can read it.
        environment: All of it.
        mark: Finds the process and its descendants again.
        log: Created anew; the one before is kept as ``<log>.1``.
        folder: Where it runs.
    """
    if log.exists():
        log.replace(log.with_name(f"{log.name}.1"))
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
    try:
        # Not closed here: the thread waits for it, so that a dead server leaves no zombie while
        # this process lives.
        started = subprocess.Popen(
            command,
            env={**environment, MARK: mark},
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            cwd=folder,
            start_new_session=True,
        )
    finally:
        os.close(descriptor)
    threading.Thread(target=started.wait, name=f"reaper-{started.pid}", daemon=True).start()
    found = find(started.pid)
    # Dead already: an identity that matches no process.
    return found or Process(started.pid, "")


def find(pid: int) -> Process | None:
    """The living process with this pid."""
    entry = _read(pid, with_mark=False)
    return None if entry is None else entry.process


def is_alive(process: Process) -> bool:
    """Whether this very process lives; a zombie does not."""
    return find(process.pid) == process


def members(belongs: Callable[[str], bool]) -> list[Process]:
    """All living processes whose mark ``belongs``, with those of their sessions and descendants.

    A process that renames itself (Ray's workers) overwrites its environment, mark included; its
    session and its parent still tell. This process and those above it are never among them.
    """
    return [entry.process for entry in _members(belongs)]


def stop(belongs: Callable[[str], bool], *, grace_seconds: float) -> int:
    """End every process whose mark ``belongs``: SIGTERM, and SIGKILL after ``grace_seconds``.

    SIGTERM goes to the first process, which ends its children in its own way, and to orphans.
    Returns how many there were; none is left. Safe to retry.

    Raises:
        StackError: One does not end even so.
    """
    seen: set[Process] = set()
    asked: set[Process] = set()
    kill_at = time.monotonic() + grace_seconds
    while True:
        entries = _members(belongs)
        # Those seen before are kept in sight: an orphan whose mark is gone is found no more.
        living = {one for one in seen if is_alive(one)} | {entry.process for entry in entries}
        seen |= living
        if not living:
            return len(seen)
        now = time.monotonic()
        if now > kill_at + _KILL_SECONDS:
            left = ", ".join(str(process.pid) for process in living)
            raise StackError(f"processes {left} must end when killed, and did not; look at them")
        pids = {entry.process.pid for entry in entries}
        children = {entry.process for entry in entries if entry.parent in pids}
        for process in living - asked - children:
            _signal(process, signal.SIGTERM)
            # A suspended one would not hear it.
            _signal(process, signal.SIGCONT)
            asked.add(process)
        if now > kill_at:
            for process in living:
                _signal(process, signal.SIGKILL)
        time.sleep(_POLL_SECONDS)


def _members(belongs: Callable[[str], bool]) -> list[_Entry]:
    table = {
        entry.process.pid: entry
        for path in Path("/proc").iterdir()
        if path.name.isdigit() and (entry := _read(int(path.name), with_mark=True)) is not None
    }
    above: set[int] = set()
    pid = os.getpid()
    while pid in table and pid not in above:
        above.add(pid)
        pid = table[pid].parent
    found = {pid for pid, entry in table.items() if entry.mark and belongs(entry.mark)} - above
    sessions = {table[pid].session for pid in found}
    size = -1
    while size != len(found):
        size = len(found)
        found |= {
            pid
            for pid, entry in table.items()
            if entry.parent in found or entry.session in sessions
        } - above
    return [table[pid] for pid in sorted(found)]


def _signal(process: Process, number: signal.Signals) -> None:
    try:
        # A pid that is reused after this line is of another process: the handle is not.
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        if is_alive(process):
            signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        pass
    finally:
        os.close(handle)


def _read(pid: int, *, with_mark: bool) -> _Entry | None:
    """What ``/proc`` says of a living process; None when there is none."""
    folder = Path("/proc") / str(pid)
    try:
        text = (folder / "stat").read_text(errors="replace")
        # The name, in brackets, may hold spaces and brackets.
        fields = text.rpartition(")")[2].split()
    except OSError:
        return None
    if len(fields) < 20 or fields[0] in "ZX":
        return None
    mark = _mark_of(folder) if with_mark else ""
    return _Entry(Process(pid, fields[19]), int(fields[1]), int(fields[3]), mark)


def _mark_of(folder: Path) -> str:
    try:
        environment = (folder / "environ").read_bytes()
    except OSError:
        # Another user's, or gone.
        return ""
    prefix = f"{MARK}=".encode()
    found = (item for item in environment.split(b"\0") if item.startswith(prefix))
    return next(found, b"")[len(prefix) :].decode(errors="replace")
