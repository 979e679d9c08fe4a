"""What this machine has of a lineage outside of the store, and which other machines may have some.

Everything below the work folder can be made again, so that what holds a forgotten text is removed.
"""

import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from storage.layout import Layout
from storage.lease_record import read_lease
from storage.objects import ObjectStore
from tasks.forget.passages import Passages
from tasks.forget.proof import search_files

_TABLES = "documents"
"""Copies of the tables of documents."""
_SCRATCH = ("refresh-", "index-", "merge-", "report-", "forget-")
"""Begin the names of folders that a killed refresh or takedown leaves."""


def clear_local(work_dir: Path, passages: Passages) -> int:
    """Remove what holds passages, tables of documents and scratch; returns how many files.

    Safe to retry. Nothing else may work on the lineage on this machine.
    """
    removed = 0
    if not work_dir.is_dir():
        return removed
    for folder in work_dir.iterdir():
        if folder.name == _TABLES or folder.name.startswith(_SCRATCH):
            removed += sum(path.is_file() for path in folder.rglob("*"))
            shutil.rmtree(folder)
    for place in search_files(local_files(work_dir), passages).places:
        Path(place.where).unlink(missing_ok=True)
        removed += 1
    return removed


def local_files(work_dir: Path) -> Iterator[tuple[str, Path]]:
    """Every file below the work folder, with its name."""
    if work_dir.is_dir():
        yield from ((str(path), path) for path in sorted(work_dir.rglob("*")) if path.is_file())


def other_machines(store: ObjectStore, layout: Layout) -> list[str]:
    """Hosts that worked on the lineage, as far as it is on record; not this one."""
    lease = read_lease(store, layout)
    hosts = {lease.host} if lease else set[str]()
    for info in store.list(layout.updates):
        if "/lives/" in info.key:
            hosts.add(json.loads(store.get(info.key)).get("host", ""))
    return sorted(hosts - {"", socket.gethostname()})
