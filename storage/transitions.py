"""What an event makes of a lineage's state: pure functions from head to head (docs/design.md, 5a).

::

                 with_snapshot             with_verdict PASS, promote
      (nothing) ---------------> pending ------------------------------> learned
                                  | ^  ^                                    |
                           refuse | |  +---- unhold ---- held <-- rollback -+
                                  v | with_snapshot (refresh --retry)
                                 refused

A version, once judged, is published, refused or awaiting. One that awaits a person leaves that
state by promote and reject, by another verdict when the champion has moved (``with_verdict`` of
what ``storage.judging_again`` says), or as superseded, when another version is published that
learned all its data. Rollback and unhold are in ``storage.taking_back``.

Each returns the next head, or the very head it was given when the event is in it already, so that a
retry through ``storage.head.commit_change`` commits nothing twice. A move that the state does not
allow is a ValueError that says what is possible; a state that moved under a long update is a
HeadMovedError.
"""

from collections.abc import Collection
from dataclasses import replace

from storage.head import (
    Decision,
    Head,
    SnapshotRecord,
    SnapshotRole,
    VersionRecord,
    next_head,
)
from storage.head_records import (
    lease_token_of,
    refuse_move,
    snapshot_of,
    version_of,
    with_changed,
    with_records,
    with_state,
)
from storage.judging_again import check_unmoved


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
        snapshots=with_state(head, record.snapshots, "learned"),
        versions=(*head.versions, _published(head, record)),
        lease_token=lease_token_of(head, lease_token),
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
    version that awaits a person may be judged again on a newer head, as
    ``storage.judging_again.to_judge_again`` has it. With ``always_ask`` a PASS waits for a person
    as an AMBIGUOUS does.

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
        refuse_move(
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
            versions=with_records(head, *before, _published(head, record)),
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
        versions=with_records(head, *before, judged),
        lease_token=lease_token_of(head, lease_token),
    )


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
    record = version_of(head, version)
    if head.champion == version:
        return head
    if record.decision == "published":
        refuse_move(f"promote {version}", "it was published before", f"rollback to {version}")
    held = {known.id for known in head.snapshots if known.state == "held"}
    if record.decision == "rolled_back":
        # The person who takes the rollback back decides over what it held as well.
        freed = with_state(head, held & set(record.snapshots), "pending")
        check_unmoved(replace(head, snapshots=freed), record)
    else:
        check_unmoved(head, record)
    told = replace(record, decision="published", published_on_head=head.number + 1, reason=reason)
    return _publish(
        head,
        record,
        replay,
        versions=with_changed(head, [told]),
        action="promote",
        by=by,
        reason=reason,
        lease_token=lease_token,
    )


def reject(head: Head, version: str, *, by: str, reason: str) -> Head:
    """A person decides against a version that awaits a decision; its snapshots stay pending."""
    record = version_of(head, version)
    if record.decision == "rejected":
        return head
    if record.decision != "awaiting":
        refuse_move(
            f"reject {version}",
            f"it is {record.decision}",
            "rollback" if head.champion == version else _awaiting(head),
        )
    rejected = replace(record, decision="rejected", reason=reason or record.reason)
    return next_head(
        head, action="reject", by=by, reason=reason, versions=with_changed(head, [rejected])
    )


def refuse(head: Head, snapshot: str, *, suite: str | None, by: str, reason: str) -> Head:
    """A data gate refuses a snapshot; ``suite`` is the version without its holdout. Marks stay."""
    record = snapshot_of(head, snapshot)
    if record.state == "refused":
        return head
    if record.state == "learned":
        refuse_move(
            f"refuse {snapshot}", "it is learned", "rollback of the version that learned it"
        )
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
    snapshots = with_state(head, record.snapshots, "learned")
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
        lease_token=lease_token_of(head, lease_token),
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


def _published(head: Head, record: VersionRecord) -> VersionRecord:
    number = head.number + 1
    return replace(record, decision="published", on_head=number, published_on_head=number)


def _unpublished(head: Head, record: VersionRecord) -> VersionRecord:
    decision: Decision = "refused" if record.verdict == "FAIL" else "awaiting"
    return replace(record, decision=decision, on_head=head.number + 1, published_on_head=None)


def _awaiting(head: Head) -> str:
    awaiting = [known.version for known in head.versions if known.decision == "awaiting"]
    return (
        f"reject {' or '.join(awaiting)}" if awaiting else "nothing, no version awaits a decision"
    )
