"""What a person takes back: a publication, and the hold on what it had learned. Pure.

Like ``storage.transitions``: from head to head, and the very head when the event is in it already.
"""

from collections.abc import Callable
from dataclasses import replace

from storage.head import Head, VersionRecord, next_head
from storage.head_records import (
    lease_token_of,
    refuse_move,
    snapshot_of,
    version_of,
    with_changed,
    with_state,
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
        refuse_move("roll back", f"{head.lineage} has no champion", "update, or promote a version")
    if to == head.champion:
        return head
    undone: list[VersionRecord] = []
    before = head
    while not undone or (to is not None and before.champion != to):
        champion = version_of(head, before.champion or "")
        # A champion's record always names the head that published it; head 0 is before the first.
        number = (champion.published_on_head or 1) - 1
        earlier = read(number) if number else None
        if earlier is None or earlier.champion is None:
            options = [record.parent for record in undone if record.parent is not None]
            refuse_move(
                f"roll back to {to or 'an earlier version'}",
                f"no such version was champion before {head.champion}",
                f"rollback to {' or '.join(options)}" if options else "update",
            )
        undone.append(champion)
        before = earlier
    return _rolled_back(head, before, undone, by=by, reason=reason, lease_token=lease_token)


def unhold(head: Head, snapshot: str, *, by: str, reason: str) -> Head:
    """Let the next update train on a snapshot that a rollback held."""
    record = snapshot_of(head, snapshot)
    if record.state == "pending":
        return head
    if record.state != "held":
        held = [known.id for known in head.snapshots if known.state == "held"]
        refuse_move(
            f"unhold {snapshot}",
            f"it is {record.state}",
            f"unhold {' or '.join(held)}" if held else "nothing, no snapshot is held",
        )
    return next_head(
        head,
        action="unhold",
        by=by,
        reason=reason,
        snapshots=with_state(head, [snapshot], "pending"),
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
        versions=with_changed(head, marked),
        lease_token=lease_token_of(head, lease_token),
    )
