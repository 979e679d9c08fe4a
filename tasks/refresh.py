"""Refresh: what is new in the sources becomes a pending snapshot on the lineage's head.

list -> skip what was consumed -> read -> curate -> tokenise -> split -> pack -> mint -> commit.
Everything is found by the hash of its inputs, so that a run that died is simply started again.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from storage.file_cache import FileCache
from storage.head import Head, read_head
from storage.known_documents import known_documents
from storage.layout import Layout
from storage.near_duplicate_index import (
    NearDuplicateIndex,
    merge_complete,
    open_index,
    slots_of,
    unindexed,
)
from storage.objects import ObjectStore
from storage.snapshots import read_snapshot
from storage.takedowns import kept_out
from tasks.build import BuildInputs, ReadDocuments, read_and_split
from tasks.edited import read_held_out
from tasks.marks import read_marks
from tasks.mint import store_snapshot
from tasks.near_duplicates.earlier import index_earlier
from tasks.refresh_commit import RefreshCommit
from tasks.refresh_progress import RefreshProgress, UnseenProgress
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
)
from tasks.refresh_text import warned_of
from tasks.rejects import describe_rejects
from tasks.staff import Workers

if TYPE_CHECKING:
    from training.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

_CERTIFICATES = "certified-tokenizers"
_UNSEEN = UnseenProgress()
_KNOWN = "known-documents"


def refresh(
    store: ObjectStore,
    layout: Layout,
    request: RefreshRequest,
    *,
    by: str,
    work_dir: Path,
    lease_token: int | None = None,
    progress: RefreshProgress = _UNSEEN,
    workers: Workers | None = None,
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
        workers: Who prepares documents; None: this process. No influence on the snapshot.

    Raises:
        SourceRefusedError: Too much of a source cannot be read; nothing was changed.
        TrainingError: Ray lost its workers too often, or has no room for one; nothing was changed.
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
    inputs = inputs_of(store, layout, request, head, listing.new, work_dir)
    files_new = sum(len(objects) for _, objects in listing.new)
    with TemporaryDirectory(dir=work_dir, prefix="refresh-") as scratch:
        work = _Refresh(
            store,
            layout,
            request,
            head,
            RefreshCommit(store=store, layout=layout, head=head, by=by, lease_token=lease_token),
            Path(scratch),
            work_dir / _CERTIFICATES,
            work_dir / _KNOWN / layout.lineage,
            FileCache(work_dir / "snapshots"),
            progress,
            workers or Workers(),
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
    commit: RefreshCommit
    work_dir: Path
    certificates: Path
    known: Path
    """Where this machine keeps what it knows of the lineage's documents."""
    cache: FileCache
    progress: RefreshProgress
    workers: Workers

    def run(self, inputs: BuildInputs) -> RefreshResult:
        snapshot = inputs.identity[:12]
        if self.store.exists(self.layout.snapshot_manifest(snapshot)):
            logger.info("snapshot %s was minted before its commit was lost; committing", snapshot)
            return self.commit.snapshot(read_snapshot(self.store, self.layout, snapshot))
        taken_down = kept_out(self.store, self.layout, self.head.takedowns if self.head else ())
        read = read_and_split(
            inputs,
            _open_tokenizer(self.store, self.head, self.request.tokenizer, self.work_dir),
            known_documents(
                self.store,
                self.layout,
                known_snapshots(self.head),
                taken_down.contents,
                cache=self.known,
            ),
            self._index(),
            lineage=self.layout.lineage,
            work_dir=self.work_dir,
            certificates=self.certificates,
            progress=self.progress,
            workers=self.workers,
            kept_out=taken_down,
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
        result = self.commit.snapshot(manifest)
        return replace(result, warnings=(*result.warnings, *read.warnings))

    def _index(self) -> NearDuplicateIndex:
        """Of what the lineage knows; empty when near-duplicates are not looked for."""
        if self.request.near_duplicates is None:
            return NearDuplicateIndex(())
        slots, scheme = slots_of(self.head), self.request.near_duplicates.scheme
        # First of all, so that nothing is added of a scheme that will be refused.
        open_index(self.store, self.layout, slots, scheme, self.cache)
        for snapshot in unindexed(self.store, self.layout, slots):
            self.progress.stage("earlier snapshots to index", slots.index(snapshot), len(slots))
            index_earlier(
                self.store, self.layout, snapshot, scheme, cache=self.cache, work_dir=self.work_dir
            )
        merge_complete(self.store, self.layout, slots, cache=self.cache, work_dir=self.work_dir)
        return open_index(self.store, self.layout, slots, scheme, self.cache)

    def _commit_marks(self, read: ReadDocuments) -> RefreshResult:
        """Remember what was read though it gave nothing to train on."""
        counts = (read.dropped | read.rejected).items()
        told = ", ".join(f"{reason} {count:,}" for reason, count in counts) or "all files empty"
        reason = f"nothing to train on in the new files ({told}); they are marked as read"
        if not read.consumed:
            reason = f"no new file could be read ({told}); the next refresh tries again"
            return self._told(read, self.head, reason)
        return self._told(read, self.commit.marks(read.consumed, reason), reason)

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
