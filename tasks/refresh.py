"""Refresh: what is new in the sources becomes a pending snapshot on the lineage's head.

list -> skip what was consumed -> read -> curate -> tokenise -> split -> pack -> mint -> commit.
Everything is found by the hash of its inputs, so that a run that died is simply started again.
"""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from storage.errors import HeadMovedError
from storage.file_cache import FileCache
from storage.head import Head, commit_change, next_head, read_head
from storage.layout import Layout
from storage.manifest import read_verified
from storage.near_duplicate_index import (
    NearDuplicateIndex,
    merge_complete,
    open_index,
    slots_of,
    unindexed,
)
from storage.objects import ObjectStore
from storage.snapshots import SnapshotManifest, known_documents, read_snapshot
from storage.suite import publish_suite, read_suite, suite_of
from storage.transitions import with_snapshot
from tasks.build import CONSUMED, BuildInputs, Progress, ReadDocuments, read_and_split
from tasks.edited import read_held_out
from tasks.marks import publish_marks, read_marks
from tasks.mint import store_snapshot
from tasks.near_duplicates.earlier import index_earlier
from tasks.refresh_request import (
    ImportedTokenizer,
    Listing,
    RefreshRequest,
    RefreshResult,
    StoredTokenizer,
    TokenizerChoice,
    inputs_of,
    known_snapshots,
    list_new,
    state_of,
)
from tasks.refresh_text import committed_result, describe_snapshot, warned_of
from tasks.rejects import describe_rejects, rejects_of

if TYPE_CHECKING:
    from training.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

_CERTIFICATES = "certified-tokenizers"


def refresh(
    store: ObjectStore,
    layout: Layout,
    request: RefreshRequest,
    *,
    by: str,
    work_dir: Path,
    lease_token: int | None = None,
    progress: Progress = lambda *_: None,
) -> RefreshResult:
    """Read what is new in the sources and commit it as a snapshot. Safe to retry after any crash.

    Nothing new, or less than the minimum, is success: nothing is minted, and what was not enough is
    read again next time. New files without a new document are marked as read all the same. A
    lineage whose sources have never matched a file is an error: its URIs are yet to be filled in.

    Args:
        store: Where the lineage lies.
        layout: Of the lineage.
        request: What to read.
        by: Who, for the head.
        work_dir: Existing local directory for temporary files, and for what was found out about
            tokenizers on this machine.
        lease_token: Of the lease under which this runs, if any.
        progress: Told how far reading, packing and uploading are.

    Raises:
        SourceRefusedError: Too much of a source cannot be read; nothing was changed.
        EncodingMismatchError: The fast path of the tokenizer is wrong; nothing was changed, and the
            next refresh on this machine does without it.
        HeadMovedError: Another refresh was faster; start again.
        LeaseLostError: A newer holder of the lease has committed.
        ValueError: The request does not fit the lineage; the message names the field.
    """
    head = read_head(store, layout)
    listing = list_new(request, read_marks(store, head.marks if head else None))
    files_listed = listing.files_listed
    if not listing.new:
        _check_ever_matched(layout, head, listing)
        return RefreshResult(
            snapshot=None,
            head=head.number if head else 0,
            reason=(
                f"nothing new: all {files_listed} files of the sources were read before"
                if files_listed
                else "no file matches the uri of any source"
            ),
            files_listed=files_listed,
            warnings=listing.without_files,
        )
    inputs = inputs_of(store, layout, request, head, listing.new)
    files_new = sum(len(objects) for _, objects in listing.new)
    with TemporaryDirectory(dir=work_dir, prefix="refresh-") as scratch:
        work = _Refresh(
            store,
            layout,
            request,
            head,
            by,
            lease_token,
            Path(scratch),
            work_dir / _CERTIFICATES,
            FileCache(work_dir / "snapshots"),
            progress,
        )
        result = work.run(inputs)
    return replace(
        result,
        files_listed=files_listed,
        files_new=files_new,
        warnings=(*listing.without_files, *result.warnings),
    )


@dataclass(frozen=True, slots=True)
class _Refresh:
    """One refresh at work, from the head that it started on."""

    store: ObjectStore
    layout: Layout
    request: RefreshRequest
    head: Head | None
    by: str
    lease_token: int | None
    work_dir: Path
    certificates: Path
    cache: FileCache
    progress: Progress

    def run(self, inputs: BuildInputs) -> RefreshResult:
        snapshot = inputs.identity[:12]
        if self.store.exists(self.layout.snapshot_manifest(snapshot)):
            logger.info("snapshot %s was minted before its commit was lost; committing", snapshot)
            return self._commit_snapshot(read_snapshot(self.store, self.layout, snapshot))
        read = read_and_split(
            inputs,
            _open_tokenizer(self.store, self.head, self.request.tokenizer, self.work_dir),
            known_documents(self.store, self.layout, known_snapshots(self.head)),
            self._index(),
            lineage=self.layout.lineage,
            work_dir=self.work_dir,
            certificates=self.certificates,
            progress=self.progress,
            held_out=read_held_out(
                self.store,
                self.layout,
                known_snapshots(self.head),
                inputs.sources,
                cache=self.cache,
                work_dir=self.work_dir,
            ),
        )
        if not read.num_train:
            return self._commit_marks(read)
        minimum = self.request.minimum
        if (
            read.num_kept < minimum.min_new_documents
            or read.num_kept_tokens < minimum.min_new_tokens
        ):
            reason = (
                f"not enough new data: {read.num_kept:,} documents with {read.num_kept_tokens:,} "
                f"tokens, wanted at least {minimum.min_new_documents:,} documents and "
                f"{minimum.min_new_tokens:,} tokens; they are read again when there is more"
            )
            return self._told(read, self.head, reason)
        manifest = store_snapshot(
            self.store, self.layout, inputs, read, work_dir=self.work_dir, progress=self.progress
        )
        result = self._commit_snapshot(manifest)
        return replace(result, warnings=(*result.warnings, *read.warnings))

    def _index(self) -> NearDuplicateIndex:
        """Of what the lineage knows; empty when near-duplicates are not looked for."""
        if self.request.near_duplicates is None:
            return NearDuplicateIndex(())
        slots, scheme = slots_of(self.head), self.request.near_duplicates.scheme
        # First of all, so that nothing is added of a scheme that will be refused.
        open_index(self.store, self.layout, slots, scheme, self.cache)
        for snapshot in unindexed(self.store, self.layout, slots):
            self.progress("earlier snapshots to index", slots.index(snapshot), len(slots))
            index_earlier(
                self.store, self.layout, snapshot, scheme, cache=self.cache, work_dir=self.work_dir
            )
        merge_complete(self.store, self.layout, slots, cache=self.cache, work_dir=self.work_dir)
        return open_index(self.store, self.layout, slots, scheme, self.cache)

    def _commit_snapshot(self, manifest: SnapshotManifest) -> RefreshResult:
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

    def _commit_marks(self, read: ReadDocuments) -> RefreshResult:
        """Remember what was read though it gave nothing to train on."""
        counts = (read.dropped | read.rejected).items()
        told = ", ".join(f"{reason} {count:,}" for reason, count in counts) or "all files empty"
        reason = f"nothing to train on in the new files ({told}); they are marked as read"
        if not read.consumed:
            reason = f"no new file could be read ({told}); the next refresh tries again"
            return self._told(read, self.head, reason)
        marks = self._publish_marks(read.consumed)

        def with_it(head: Head) -> Head:
            return next_head(head, action="refresh", by=self.by, reason=reason, marks=marks)

        head = self._commit(with_it, lambda head: head.marks == marks)
        return self._told(read, head, reason)

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

    @staticmethod
    def _told(read: ReadDocuments, head: Head | None, reason: str) -> RefreshResult:
        """The result of a refresh that minted nothing."""
        rejects = ""
        if read.first_reject is not None:
            rejects = describe_rejects(
                read.rejected, read.first_reject, documents_read=len(read.documents)
            )
        return RefreshResult(
            snapshot=None,
            head=head.number if head else 0,
            reason=reason,
            documents_read=len(read.documents),
            documents_dropped=read.dropped,
            lines_rejected=read.rejected,
            warnings=(*warned_of(rejects), *read.warnings),
        )


def _check_ever_matched(layout: Layout, head: Head | None, listing: Listing) -> None:
    """Refuse sources of which nothing was ever read and nothing can be now."""
    has_read = head is not None and (head.snapshots or head.marks)
    if listing.files_listed or has_read:
        return
    raise ValueError(
        f"lineage {layout.lineage} has no data: no source has ever matched a file "
        f"({'; '.join(listing.without_files)}); fill in the uri of each source, or put files there"
    )


def _open_tokenizer(
    store: ObjectStore, head: Head | None, choice: TokenizerChoice, work_dir: Path
) -> "Tokenizer | int":
    """The tokenizer, or the vocab_size of one that has yet to be trained."""
    from training.tokenizer import fetch_tokenizer, load_tokenizer  # noqa: PLC0415  tokenizers

    if head is not None and head.tokenizer is not None:
        return fetch_tokenizer(store, head.tokenizer, work_dir / "lineage-tokenizer")
    if isinstance(choice, StoredTokenizer):
        return fetch_tokenizer(store, choice.prefix, work_dir / "lineage-tokenizer")
    if isinstance(choice, ImportedTokenizer):
        return load_tokenizer(choice.directory)
    return choice.vocab_size


def _read_consumed(
    store: ObjectStore, layout: Layout, manifest: SnapshotManifest
) -> dict[str, str]:
    (file,) = (file for file in manifest.files if file.name == CONSUMED)
    return json.loads(read_verified(store, layout.snapshot(manifest.id), file))
