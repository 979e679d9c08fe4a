"""What a takedown makes of a lineage's state. Pure, as ``storage.transitions``."""

from collections.abc import Collection
from dataclasses import replace

from storage.head import Head, next_head
from storage.head_records import lease_token_of, with_changed


def with_takedown(
    head: Head,
    takedown: str,
    *,
    saw: Collection[str],
    suite: str | None,
    by: str,
    reason: str,
    lease_token: int | None = None,
) -> Head:
    """Documents were taken down: the suite has them no more, and who saw them is marked.

    Args:
        head: The newest.
        takedown: Its id.
        saw: Versions that saw any of the documents.
        suite: Without them.
        by: Who.
        reason: What was taken down, in numbers.
        lease_token: Token of the writer's lease, if it holds one.
    """
    if takedown in head.takedowns:
        return head
    marked = [
        replace(record, takedowns=(*record.takedowns, takedown))
        for record in head.versions
        if record.version in saw
    ]
    return next_head(
        head,
        action="forget",
        by=by,
        reason=reason,
        suite=suite,
        versions=with_changed(head, marked),
        takedowns=(*head.takedowns, takedown),
        lease_token=lease_token_of(head, lease_token),
    )
