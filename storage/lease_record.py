"""What the lease says of its holder, and whether that process still lives."""

import os
import socket
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from storage.errors import CorruptError, NotFoundError
from storage.layout import Layout
from storage.manifest import unseal
from storage.objects import ObjectStore


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRecord:
    """What ``lease.json`` holds."""

    token: int
    holder: str
    """Who, for people; empty when the lease is free."""
    host: str
    machine: str
    """Boot and process namespace in which ``pid`` means something; empty where unknown."""
    pid: int
    process_started: str
    """Start time of the process in clock ticks since boot, which tells it from a reused pid."""
    acquired_at: str
    """UTC, ISO 8601, for people."""
    expires_at: float
    """Seconds since the epoch."""
    note: str
    """What the holder works on."""
    nonce: str
    """Random, so that a write whose answer was lost is recognised as our own."""
    unfinished: str = ""
    """What was worked on last and is not done; passed on from holder to holder."""


def read_lease(store: ObjectStore, layout: Layout) -> LeaseRecord | None:
    """The stored lease, held or free; None when the lineage never had one. Raises CorruptError."""
    stored = read_stored(store, layout)
    return None if stored is None else stored[0]


def read_stored(store: ObjectStore, layout: Layout) -> tuple[LeaseRecord, str] | None:
    """The stored lease and its entity tag, None when there never was one. Raises CorruptError."""
    try:
        body, etag = store.get_with_etag(layout.lease)
    except NotFoundError:
        return None
    try:
        return unseal(body, layout.lease, LeaseRecord), etag
    except CorruptError as error:
        raise CorruptError(
            f"{layout.lease} is damaged, nobody can tell who holds the lease; the next update of "
            f"{layout.lineage} replaces it"
        ) from error


def new_record(
    stored: tuple[LeaseRecord, str] | None, holder: str, note: str, ttl_seconds: float
) -> LeaseRecord:
    """The lease as ``holder`` of this process would hold it after ``stored``.

    Raises:
        ValueError: The holder has no name.
    """
    if not holder:
        raise ValueError("a lease needs a holder's name, e.g. user@host; found an empty one")
    pid = os.getpid()
    status = _process_status(pid)
    return LeaseRecord(
        token=stored[0].token + 1 if stored else 1,
        holder=holder,
        host=socket.gethostname(),
        machine=_this_machine(),
        pid=pid,
        process_started=status[1] if status else "",
        acquired_at=datetime.now(UTC).isoformat(timespec="seconds"),
        expires_at=time.time() + ttl_seconds,
        note=note,
        # A holder of an earlier version says in its note what it died over.
        unfinished=(stored[0].unfinished or stored[0].note) if stored else "",
        nonce=os.urandom(8).hex(),
    )


def is_held(record: LeaseRecord) -> bool:
    """Whether somebody holds it: not released, not expired, its process not known to be dead."""
    return record.holder != "" and time.time() < record.expires_at and not _is_dead(record)


def _is_dead(record: LeaseRecord) -> bool:
    """Whether the holder was a process of this host that no longer lives."""
    if not record.machine or record.machine != _this_machine():
        return False
    status = _process_status(record.pid)
    # A zombie has died, only its parent has not noticed.
    return status is None or status[0] in "ZX" or status[1] != record.process_started


def _process_status(pid: int) -> tuple[str, str] | None:
    """State letter and start time of a process, None when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command's name may hold blanks and parentheses; what follows the last one has 50 numbers.
    after_name = text[text.rindex(")") + 1 :].split()
    return after_name[0], after_name[19]


def _this_machine() -> str:
    """What must be equal for a pid to mean the same process: the boot and the pid namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115  not a path
    except OSError:
        return ""
