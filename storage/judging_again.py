"""Whether a verdict is about today's head, and what to judge a version as where it is not. Pure."""

from dataclasses import replace

from storage.errors import HeadMovedError
from storage.head import Head, VersionRecord
from storage.head_records import version_of


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
    record = version_of(head, version)
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
