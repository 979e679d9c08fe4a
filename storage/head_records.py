"""Finding and changing the records of a head: what the moves between states share. Pure."""

from collections.abc import Collection
from dataclasses import replace
from typing import NoReturn

from storage.head import Head, SnapshotRecord, SnapshotState, VersionRecord


def with_state(
    head: Head, snapshots: Collection[str], state: SnapshotState
) -> tuple[SnapshotRecord, ...]:
    """The head's snapshots with some of them in ``state``."""
    known = {record.id for record in head.snapshots}
    for snapshot in snapshots:
        if snapshot not in known:
            raise _unknown("snapshot", snapshot, known, head)
    return tuple(
        replace(record, state=state, reason="") if record.id in snapshots else record
        for record in head.snapshots
    )


def with_records(head: Head, *records: VersionRecord) -> tuple[VersionRecord, ...]:
    """The head's versions with ``records``; one that was judged before keeps its place."""
    changed = {record.update: record for record in records}
    kept = tuple(changed.pop(known.update, known) for known in head.versions)
    return (*kept, *changed.values())


def with_changed(head: Head, records: list[VersionRecord]) -> tuple[VersionRecord, ...]:
    """The head's versions with these in the place of the same versions."""
    changed = {record.version: record for record in records}
    return tuple(changed.get(record.version, record) for record in head.versions)


def lease_token_of(head: Head, lease_token: int | None) -> int:
    """The token that the next head carries: the writer's, or the head's without a lease."""
    return head.lease_token if lease_token is None else lease_token


def version_of(head: Head, version: str) -> VersionRecord:
    """A version's record.

    Raises:
        ValueError: No such version; names those there are.
    """
    for record in head.versions:
        if record.version == version:
            return record
    raise _unknown("version", version, [record.version for record in head.versions], head)


def snapshot_of(head: Head, snapshot: str) -> SnapshotRecord:
    """A snapshot's record.

    Raises:
        ValueError: No such snapshot; names those there are.
    """
    for record in head.snapshots:
        if record.id == snapshot:
            return record
    raise _unknown("snapshot", snapshot, [record.id for record in head.snapshots], head)


def _unknown(what: str, name: str, known: Collection[str], head: Head) -> ValueError:
    listed = ", ".join(known) or "none yet"
    return ValueError(f"{head.lineage} has no {what} {name!r}; it has {listed}")


def refuse_move(move: str, found: str, possible: str) -> NoReturn:
    """Refuse a move that the state does not allow.

    Raises:
        ValueError: Always.
    """
    raise ValueError(f"cannot {move}: {found}; what is possible: {possible}")
