"""What a refresh has read goes on the head, if the lineage still is what it was read for.

Every commit is safe to retry, and recognised when it was made before.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace

from storage.errors import HeadMovedError
from storage.head import Head, commit_change, next_head
from storage.layout import Layout
from storage.manifest import read_verified
from storage.objects import ObjectStore
from storage.snapshots import SnapshotManifest
from storage.suite import publish_suite, read_suite, suite_of
from storage.transitions import with_snapshot
from tasks.build import CONSUMED
from tasks.marks import publish_marks, read_marks
from tasks.refresh_request import RefreshResult, state_of
from tasks.refresh_text import committed_result, describe_snapshot, warned_of
from tasks.rejects import rejects_of


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshCommit:
    """Commits for a refresh that began on ``head``."""

    store: ObjectStore
    layout: Layout
    head: Head | None
    by: str
    lease_token: int | None

    def snapshot(self, manifest: SnapshotManifest) -> RefreshResult:
        """Put a minted snapshot on the head, with its marks and its holdout in the suite."""
        consumed = _read_consumed(self.store, self.layout, manifest)
        marks = self._publish_marks(consumed)
        old = self.head.suite if self.head else None
        previous = read_suite(self.store, self.layout, old) if old else None
        suite = suite_of(previous, manifest)
        publish_suite(self.store, self.layout, suite)
        reason = describe_snapshot(manifest)

        def with_it(head: Head) -> Head:
            return with_snapshot(
                head,
                manifest.id,
                marks=marks,
                suite=suite.id,
                tokenizer=manifest.tokenizer,
                by=self.by,
                reason=reason,
                role=manifest.role,
            )

        def is_in(head: Head) -> bool:
            return with_it(head) is head

        head = self._commit(with_it, is_in)
        rejects = rejects_of(self.store, self.layout, manifest)
        return replace(committed_result(manifest, head, reason), warnings=warned_of(rejects))

    def marks(self, consumed: dict[str, str], reason: str) -> Head:
        """Remember what was read though it gave nothing to train on."""
        marks = self._publish_marks(consumed)

        def with_it(head: Head) -> Head:
            return next_head(head, action="refresh", by=self.by, reason=reason, marks=marks)

        return self._commit(with_it, lambda head: head.marks == marks)

    def _publish_marks(self, consumed: dict[str, str]) -> str:
        before = read_marks(self.store, self.head.marks if self.head else None)
        return publish_marks(self.store, self.layout, before | consumed)

    def _commit(self, with_it: Callable[[Head], Head], is_in: Callable[[Head], bool]) -> Head:
        """Commit a change on the newest head, if that still knows the data that ours knew."""
        first = next_head(
            None,
            action="init",
            by=self.by,
            lineage=self.layout.lineage,
            lease_token=self.lease_token or 0,
        )
        commit_change(self.store, self.layout, lambda head: head or first)
        expected = (state_of(self.head), (self.head or first).tokenizer)

        def change(head: Head | None) -> Head:
            # Committed above, and heads are never removed.
            assert head is not None
            if is_in(head):
                return head
            if (state_of(head), head.tokenizer) != expected:
                raise HeadMovedError(
                    f"{head.by} committed head {head.number} of {head.lineage} ({head.action}) "
                    "while this refresh was reading, and it changes what is known; refresh again"
                )
            changed = with_it(head)
            token = changed.lease_token if self.lease_token is None else self.lease_token
            return replace(changed, lease_token=token)

        return commit_change(self.store, self.layout, change)


def _read_consumed(
    store: ObjectStore, layout: Layout, manifest: SnapshotManifest
) -> dict[str, str]:
    (file,) = (file for file in manifest.files if file.name == CONSUMED)
    return json.loads(read_verified(store, layout.snapshot(manifest.id), file))
