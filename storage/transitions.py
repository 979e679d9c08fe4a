"""What an event makes of a lineage's state: pure functions from head to head (docs/design.md, 5a).

::

                 with_snapshot             with_verdict PASS, promote
      (nothing) ---------------> pending ------------------------------> learned
                                  | ^  ^                                    |
                           refuse | |  +---- unhold ---- held <-- rollback -+
                                  v | with_snapshot (refresh --retry)
                                 refused

A version, once judged, is published, refused or awaiting. One that awaits a person leaves that
state by promote and reject, by another verdict when the champion has moved (``to_judge_again``,
``with_verdict``), or as superseded, when another version is published that learned all its data.

Each returns the next head, or the very head it was given when the event is in it already, so that a
retry through ``storage.head.commit_change`` commits nothing twice. A move that the state does not
allow is a ValueError that says what is possible; a state that moved under a long update is a
HeadMovedError.
"""

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import NoReturn

from storage.errors import HeadMovedError
from storage.head import (
    Decision,
    Head,
    SnapshotRecord,
    SnapshotRole,
    SnapshotState,
    VersionRecord,
    next_head,
)


def with_snapshot(
    head: Head,
    snapshot: str,
    *,
    marks: str,
    suite: str | None,
    tokenizer: str | None,
    by: str,
    reason: str = "",
    role: SnapshotRole = "new",
) -> Head:
    """A refresh minted ``snapshot``: marks and suite move, it waits to be trained on.

    A reference counts as learned from the start. A snapshot that was refused may be minted again.
    """
    record = next((known for known in head.snapshots if known.id == snapshot), None)
    if record is not None and record.state != "refused":
        return head
    minted = SnapshotRecord(
        id=snapshot, state="learned" if role == "reference" else "pending", role=role
    )
    others = tuple(known for known in head.snapshots if known.id != snapshot)
    return next_head(
        head,
        action="refresh",
        by=by,
        reason=reason,
        marks=marks,
        suite=suite,
        tokenizer=tokenizer,
        snapshots=(*others, minted),
    )


def with_imported(
    head: Head,
    record: VersionRecord,
    *,
    replay: str | None,
    tokenizer: str | None,
    by: str,
    reason: str = "",
    lease_token: int | None = None,
) -> Head:
    """An imported base model becomes the first champion; ``record.snapshots`` count as learned.

    ``decision`` and the head numbers of ``record`` are set here.
    """
    if any(known.update == record.update for known in head.versions):
        return head
    if head.champion is not None:
        raise ValueError(
            f"cannot import {record.version}: {head.lineage} already has champion {head.champion}; "
            "import into a lineage that has no version yet"
        )
    return next_head(
        head,
        action="import",
        by=by,
        reason=reason,
        champion=record.version,
        trunk=record.trunk,
        replay=replay,
        tokenizer=tokenizer,
        snapshots=_moved(head, record.snapshots, "learned"),
        versions=(*head.versions, _published(head, record)),
        lease_token=_token(head, lease_token),
    )


def with_verdict(
    head: Head,
    record: VersionRecord,
    *,
    replay: str | None,
    by: str,
    reason: str = "",
    lease_token: int | None = None,
    always_ask: bool = False,
    failed: VersionRecord | None = None,
) -> Head:
    """The verdict on a candidate.

    PASS: its snapshots are learned, ``replay`` is the buffer that holds them, and champion and
    trunk (``record.trunk``) move. FAIL and AMBIGUOUS: nothing moves but the list of versions, and
    the snapshots stay pending. ``decision`` and the head numbers of ``record`` are set here. A
    version that awaits a person may be judged again on a newer head, as ``to_judge_again`` has it.
    With ``always_ask`` a PASS waits for a person as an AMBIGUOUS does.

    ``failed`` is the version that a PASS repairs: its own verdict is put on record in the same
    head, so that there is never the one without the other.

    Raises:
        HeadMovedError: Champion or snapshots are not what the candidate was judged against.
        ValueError: The update has another verdict already, or PASS comes without a replay version.
    """
    known = next((known for known in head.versions if known.update == record.update), None)
    if known is not None and known.decision != "awaiting":
        if (known.version, known.verdict) == (record.version, record.verdict):
            return head
        _refuse(
            f"judge update {record.update} again", f"it is {known.decision}", "start another update"
        )
    again = ("version", "verdict", "parent", "snapshots", "trunk")
    if known is not None and all(getattr(known, n) == getattr(record, n) for n in again):
        return head
    check_unmoved(head, record)
    action = "update" if known is None else "rejudge"
    before = () if failed is None else (_unpublished(head, failed),)
    if record.verdict == "PASS" and not always_ask:
        return _publish(
            head,
            record,
            replay,
            versions=_with(head, *before, _published(head, record)),
            action=action,
            by=by,
            reason=reason,
            lease_token=lease_token,
        )
    judged = _unpublished(head, record)
    return next_head(
        head,
        action=action,
        by=by,
        reason=reason,
        versions=_with(head, *before, judged),
        lease_token=_token(head, lease_token),
    )


def check_unmoved(head: Head, record: VersionRecord) -> None:
    """Whether a candidate can still be committed: same champion, and its snapshots still wait.

    Raises:
        HeadMovedError: Says what moved and what to do.
    """
    if head.champion != record.parent:
        raise HeadMovedError(
            f"{record.version} was compared with champion {record.parent}, but head {head.number} "
            f"of {head.lineage} has champion {head.champion}; check it again or start an update"
        )
    states = {snapshot.id: snapshot.state for snapshot in head.snapshots}
    for snapshot in record.snapshots:
        if states.get(snapshot) != "pending":
            raise HeadMovedError(
                f"{record.version} was trained on snapshot {snapshot}, which is "
                f"{states.get(snapshot, 'unknown')} in head {head.number} of {head.lineage}, "
                "expected pending; start another update"
            )


def to_judge_again(head: Head, version: str) -> VersionRecord | None:
    """What to judge a waiting version as, on this head; None when its verdict is about today.

    Raises:
        HeadMovedError: It cannot be published as the lineage is now; says why.
        ValueError: No such version.
    """
    record = _version(head, version)
    if record.decision != "awaiting" or record.parent == head.champion:
        return None
    return replace(compared_today(head, record), judged_on=head.number)


def compared_today(head: Head, record: VersionRecord) -> VersionRecord:
    """A version as it is to be judged on this head.

    Against today's champion, and new is what nobody has learned meanwhile. A version that continues
    from one that was rolled back would bring back what the rollback took away.

    Raises:
        HeadMovedError: It cannot be published as the lineage is now; says why.
    """
    version = record.version
    parents = [known for known in head.versions if known.version == record.parent]
    if any(parent.decision == "rolled_back" for parent in parents):
        raise HeadMovedError(
            f"{version} continues from {record.parent}, which was rolled back: promote that one "
            "again first, or reject this one; the next update trains on its data again"
        )
    states = {snapshot.id: snapshot.state for snapshot in head.snapshots}
    for snapshot in record.snapshots:
        if states.get(snapshot) not in ("pending", "learned"):
            raise HeadMovedError(
                f"{version} was trained on snapshot {snapshot}, which is "
                f"{states.get(snapshot, 'unknown')} in head {head.number} of {head.lineage}: "
                "unhold it first, or reject this version"
            )
    waiting = tuple(known for known in record.snapshots if states[known] == "pending")
    if record.snapshots and not waiting:
        raise HeadMovedError(
            f"all that {version} was trained on was learned by {head.champion} meanwhile, in head "
            f"{head.number} of {head.lineage}: start another update"
        )
    return replace(record, parent=head.champion, snapshots=waiting)


def promote(
    head: Head,
    version: str,
    *,
    replay: str | None,
    by: str,
    reason: str,
    lease_token: int | None = None,
) -> Head:
    """A person makes a version champion that no verdict published; it enters replay as by a PASS.

    Also takes back a rejection or a rollback: snapshots that the rollback held are learned again.

    Raises:
        HeadMovedError: It was compared with another champion than today's.
        ValueError: No such version, or it has been champion all along.
    """
    record = _version(head, version)
    if head.champion == version:
        return head
    if record.decision == "published":
        _refuse(f"promote {version}", "it was published before", f"rollback to {version}")
    held = {known.id for known in head.snapshots if known.state == "held"}
    if record.decision == "rolled_back":
        # The person who takes the rollback back decides over what it held as well.
        freed = _moved(head, held & set(record.snapshots), "pending")
        check_unmoved(replace(head, snapshots=freed), record)
    else:
        check_unmoved(head, record)
    told = replace(record, decision="published", published_on_head=head.number + 1, reason=reason)
    return _publish(
        head,
        record,
        replay,
        versions=_replaced(head, [told]),
        action="promote",
        by=by,
        reason=reason,
        lease_token=lease_token,
    )


def reject(head: Head, version: str, *, by: str, reason: str) -> Head:
    """A person decides against a version that awaits a decision; its snapshots stay pending."""
    record = _version(head, version)
    if record.decision == "rejected":
        return head
    if record.decision != "awaiting":
        _refuse(
            f"reject {version}",
            f"it is {record.decision}",
            "rollback" if head.champion == version else _awaiting(head),
        )
    rejected = replace(record, decision="rejected", reason=reason or record.reason)
    return next_head(
        head, action="reject", by=by, reason=reason, versions=_replaced(head, [rejected])
    )


def rollback(
    head: Head,
    read: Callable[[int], Head],
    *,
    to: str | None = None,
    by: str,
    reason: str,
    lease_token: int | None = None,
) -> Head:
    """Back to the state before the champion was published: champion, trunk and replay.

    What it learned is held, and it is marked as rolled back. Suite and marks stay.

    Args:
        head: The newest head.
        read: Finds an earlier head by its number (``storage.head.read_head_number``).
        to: Version to go back to, over several publications if need be; None: the one before the
            champion. Whoever may retry after a crash names it: without it a retry goes back
            further.
        by: Who.
        reason: Why.
        lease_token: Token of the writer's lease, if it holds one.
    """
    if head.champion is None:
        _refuse("roll back", f"{head.lineage} has no champion", "update, or promote a version")
    if to == head.champion:
        return head
    undone: list[VersionRecord] = []
    before = head
    while not undone or (to is not None and before.champion != to):
        champion = _version(head, before.champion or "")
        # A champion's record always names the head that published it; head 0 is before the first.
        number = (champion.published_on_head or 1) - 1
        earlier = read(number) if number else None
        if earlier is None or earlier.champion is None:
            options = [record.parent for record in undone if record.parent is not None]
            _refuse(
                f"roll back to {to or 'an earlier version'}",
                f"no such version was champion before {head.champion}",
                f"rollback to {' or '.join(options)}" if options else "update",
            )
        undone.append(champion)
        before = earlier
    return _rolled_back(head, before, undone, by=by, reason=reason, lease_token=lease_token)


def unhold(head: Head, snapshot: str, *, by: str, reason: str) -> Head:
    """Let the next update train on a snapshot that a rollback held."""
    record = _snapshot(head, snapshot)
    if record.state == "pending":
        return head
    if record.state != "held":
        held = [known.id for known in head.snapshots if known.state == "held"]
        _refuse(
            f"unhold {snapshot}",
            f"it is {record.state}",
            f"unhold {' or '.join(held)}" if held else "nothing, no snapshot is held",
        )
    return next_head(
        head,
        action="unhold",
        by=by,
        reason=reason,
        snapshots=_moved(head, [snapshot], "pending"),
    )


def refuse(head: Head, snapshot: str, *, suite: str | None, by: str, reason: str) -> Head:
    """A data gate refuses a snapshot; ``suite`` is the version without its holdout. Marks stay."""
    record = _snapshot(head, snapshot)
    if record.state == "refused":
        return head
    if record.state == "learned":
        _refuse(f"refuse {snapshot}", "it is learned", "rollback of the version that learned it")
    refused = tuple(
        replace(known, state="refused", reason=reason) if known.id == snapshot else known
        for known in head.snapshots
    )
    return next_head(head, action="refuse", by=by, reason=reason, snapshots=refused, suite=suite)


def _publish(
    head: Head,
    record: VersionRecord,
    replay: str | None,
    *,
    versions: tuple[VersionRecord, ...],
    action: str,
    by: str,
    reason: str,
    lease_token: int | None,
) -> Head:
    """Champion and trunk move to ``record``, its snapshots are learned and enter replay.

    Other versions that wait for a person and have learned nothing else are superseded: nobody needs
    to decide over them any more.
    """
    if replay is None:
        raise ValueError(
            f"cannot publish {record.version} without a replay version that holds its snapshots; "
            "make one with storage.replay.next_replay"
        )
    snapshots = _moved(head, record.snapshots, "learned")
    learned = {known.id for known in snapshots if known.state == "learned"}
    return next_head(
        head,
        action=action,
        by=by,
        reason=reason,
        champion=record.version,
        trunk=record.trunk,
        replay=replay,
        snapshots=snapshots,
        versions=tuple(_superseded(known, learned, record) for known in versions),
        lease_token=_token(head, lease_token),
    )


def _superseded(
    known: VersionRecord, learned: Collection[str], published: VersionRecord
) -> VersionRecord:
    has_nothing_new = bool(known.snapshots) and set(known.snapshots) <= set(learned)
    if known.decision != "awaiting" or not has_nothing_new:
        return known
    return replace(
        known, decision="superseded", reason=f"{published.version} has learned its data as well"
    )


def _rolled_back(
    head: Head,
    before: Head,
    undone: list[VersionRecord],
    *,
    by: str,
    reason: str,
    lease_token: int | None,
) -> Head:
    kept = {known.id for known in before.snapshots if known.state == "learned"}
    names = ", ".join(record.version for record in undone)
    held = tuple(
        replace(known, state="held", reason=f"learned by {names}, rolled back: {reason}")
        if known.state == "learned" and known.role == "new" and known.id not in kept
        else known
        for known in head.snapshots
    )
    marked = [replace(record, decision="rolled_back", reason=reason) for record in undone]
    return next_head(
        head,
        action="rollback",
        by=by,
        reason=reason,
        champion=before.champion,
        trunk=before.trunk,
        replay=before.replay,
        snapshots=held,
        versions=_replaced(head, marked),
        lease_token=_token(head, lease_token),
    )


def _published(head: Head, record: VersionRecord) -> VersionRecord:
    number = head.number + 1
    return replace(record, decision="published", on_head=number, published_on_head=number)


def _unpublished(head: Head, record: VersionRecord) -> VersionRecord:
    decision: Decision = "refused" if record.verdict == "FAIL" else "awaiting"
    return replace(record, decision=decision, on_head=head.number + 1, published_on_head=None)


def _moved(
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


def _with(head: Head, *records: VersionRecord) -> tuple[VersionRecord, ...]:
    """The head's versions with ``records``; one that was judged before keeps its place."""
    changed = {record.update: record for record in records}
    kept = tuple(changed.pop(known.update, known) for known in head.versions)
    return (*kept, *changed.values())


def _replaced(head: Head, records: list[VersionRecord]) -> tuple[VersionRecord, ...]:
    changed = {record.version: record for record in records}
    return tuple(changed.get(record.version, record) for record in head.versions)


def _token(head: Head, lease_token: int | None) -> int:
    return head.lease_token if lease_token is None else lease_token


def _version(head: Head, version: str) -> VersionRecord:
    for record in head.versions:
        if record.version == version:
            return record
    raise _unknown("version", version, [record.version for record in head.versions], head)


def _snapshot(head: Head, snapshot: str) -> SnapshotRecord:
    for record in head.snapshots:
        if record.id == snapshot:
            return record
    raise _unknown("snapshot", snapshot, [record.id for record in head.snapshots], head)


def _unknown(what: str, name: str, known: Collection[str], head: Head) -> ValueError:
    listed = ", ".join(known) or "none yet"
    return ValueError(f"{head.lineage} has no {what} {name!r}; it has {listed}")


def _awaiting(head: Head) -> str:
    awaiting = [known.version for known in head.versions if known.decision == "awaiting"]
    return (
        f"reject {' or '.join(awaiting)}" if awaiting else "nothing, no version awaits a decision"
    )


def _refuse(move: str, found: str, possible: str) -> NoReturn:
    raise ValueError(f"cannot {move}: {found}; what is possible: {possible}")
