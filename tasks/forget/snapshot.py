"""One snapshot without the documents that are forgotten: new files, then the manifest, in one step.

Its id stays, for it is the hash of what it was made from. Files that are rewritten get new names,
so that readers have the old ones or the new ones whole; the old ones are purged later.
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from storage.file_cache import FileCache
from storage.layout import Layout
from storage.manifest import (
    FileDigest,
    content_hash,
    digest_file,
    fetch_verified,
    read_verified,
)
from storage.objects import ObjectStore
from storage.revised import file_named, find_file, original_name, revised_name
from storage.snapshots import (
    DOCUMENTS,
    UNIGRAM,
    DomainSlice,
    SnapshotManifest,
    read_snapshot_manifest,
    revise,
)
from storage.takedowns import FORGOTTEN, ForgottenDocument, Takedown
from tasks.curation.annotation_table import ANNOTATIONS
from tasks.forget.passages import Passages
from tasks.forget.shards import Folder, Rewritten, blank_training, drop_held_out
from tasks.forget.tables import (
    unpacked_lines,
    without_annotations,
    without_details,
    without_documents,
    without_lines,
)
from tasks.rejects import REJECTS
from tasks.sift import EXAMPLES, LEAKS
from training.data.shards import INDEX

_SPLITS = ("train", "holdout")
SCRATCH = "forget-"
"""Begins the names of local folders."""


def rewrite_snapshot(
    store: ObjectStore, layout: Layout, takedown: Takedown, snapshot: str, work_dir: Path
) -> SnapshotManifest:
    """Take the documents of a takedown out of a snapshot; returns its manifest.

    Safe to retry after any crash; one that was rewritten already is left alone. The old files are
    still there: ``purge_snapshot``.

    Args:
        store: Where the lineage lies.
        layout: Of the lineage.
        takedown: Begun.
        snapshot: One that has some of its documents.
        work_dir: Existing local directory.

    Raises:
        CorruptError: A file of the snapshot is missing or altered.
        ConflictError: Somebody else rewrote it meanwhile.
    """
    manifest = read_snapshot_manifest(store, layout, snapshot)
    if takedown.id in manifest.takedowns:
        return manifest
    with TemporaryDirectory(dir=work_dir, prefix=SCRATCH) as scratch:
        work = _Rewrite(store, layout.snapshot(snapshot), manifest, takedown, Path(scratch))
        new = work.build()
        work.upload()
    revise(store, layout, manifest, new)
    return new


def keys_to_rewrite(
    store: ObjectStore, layout: Layout, takedown: Takedown, snapshot: str, work_dir: Path
) -> list[str]:
    """Keys of the files of a snapshot that ``rewrite_snapshot`` would replace. Changes nothing."""
    manifest = read_snapshot_manifest(store, layout, snapshot)
    prefix = layout.snapshot(snapshot)
    with TemporaryDirectory(dir=work_dir, prefix=SCRATCH) as scratch:
        work = _Rewrite(store, prefix, manifest, takedown, Path(scratch))
        work.build()
    return sorted(f"{prefix}/{file.name}" for file in work.old)


def quotes(
    store: ObjectStore, layout: Layout, manifest: SnapshotManifest, passages: Passages
) -> bool:
    """Whether the rejects, leaks or examples of a snapshot quote a text."""
    prefix = layout.snapshot(manifest.id)
    for name in (LEAKS, EXAMPLES, REJECTS):
        file = find_file(manifest.files, name)
        if file is not None:
            body = read_verified(store, prefix, file)
            lines = unpacked_lines(body) if name == REJECTS else [body]
            if any(passages.found_in(line) for line in lines):
                return True
    return False


def purge_snapshot(store: ObjectStore, layout: Layout, manifest: SnapshotManifest) -> int:
    """Remove every version of every file that the manifest does not name; returns how many.

    Safe to retry. The index of a folder is written under its first name as well, where other
    readers of MDS look for it.
    """
    prefix = layout.snapshot(manifest.id)
    indexes: set[str] = set()
    for file in manifest.files:
        name = original_name(file.name)
        if name != file.name and name.endswith(f"/{INDEX}"):
            store.put(f"{prefix}/{name}", read_verified(store, prefix, file))
            indexes.add(name)
    named = {file.name for file in manifest.files}
    found = {version.key.removeprefix(f"{prefix}/") for version in store.list_versions(prefix)}
    removed = sum(
        store.purge(f"{prefix}/{name}", keep_newest=name in indexes)
        for name in sorted(found - named)
        if _is_replaced(name, manifest)
    )
    for domain in manifest.domains:
        # Which held-out documents are scored together; made again when it is needed.
        current = layout.units(manifest.id, domain.domain, _held_content(manifest, domain))
        for info in list(store.list(f"{prefix}/units")):
            is_of_domain = info.key.rpartition("-")[0] == current.rpartition("-")[0]
            if is_of_domain and info.key != current:
                removed += store.purge(info.key)
    return removed


def _is_replaced(name: str, manifest: SnapshotManifest) -> bool:
    """Whether a key of the snapshot, which its manifest does not name, was a file of it."""
    folders = [f"{domain.domain}/{split}/" for domain in manifest.domains for split in _SPLITS]
    originals = {original_name(file.name) for file in manifest.files}
    return name.startswith(tuple(folders)) or original_name(name) in originals


def _held_content(manifest: SnapshotManifest, domain: DomainSlice) -> str:
    """SHA-256 over the digests of a held-out slice."""
    folder = f"{domain.domain}/holdout/"
    return content_hash(file for file in manifest.files if file.name.startswith(folder))


@dataclass(slots=True)
class _Rewrite:
    """The rewriting of one snapshot."""

    store: ObjectStore
    prefix: str
    manifest: SnapshotManifest
    takedown: Takedown
    scratch: Path
    old: list[FileDigest] = field(default_factory=list[FileDigest])
    new: list[FileDigest] = field(default_factory=list[FileDigest])

    def build(self) -> SnapshotManifest:
        """Write the new files into the scratch folder; returns the manifest that names them."""
        documents = self.takedown.of_snapshot(self.manifest.id)
        counts = np.zeros(self.manifest.vocab_size, np.int64)
        cache = FileCache(self.scratch / "cache")
        domains: list[DomainSlice] = []
        for domain in self.manifest.domains:
            mine = [one for one in documents if one.domain == domain.domain]
            train = [one for one in mine if one.split == "train"]
            held = [one for one in mine if one.split == "holdout"]
            if train:
                blanked = blank_training(self._folder(f"{domain.domain}/train", cache), train)
                self._note(blanked.files)
                counts += blanked.tokens
            if held:
                self._note(drop_held_out(self._folder(f"{domain.domain}/holdout", cache), held))
            domains.append(self._slice(domain, train, held))
        if documents:
            self._tables(documents)
        self._lists(documents)
        if counts.any():
            self._unigram(counts)
        gone = {file.name for file in self.old}
        kept = (file for file in self.manifest.files if file.name not in gone)
        files = tuple(sorted((*kept, *self.new), key=lambda file: file.name))
        dropped = Counter(self.manifest.documents_dropped)
        dropped[FORGOTTEN] += sum(one.split != "dropped" for one in documents)
        return dataclasses.replace(
            self.manifest,
            content=content_hash(files),
            domains=tuple(domains),
            documents_dropped=dict(sorted((+dropped).items())),
            files=files,
            takedowns=(*self.manifest.takedowns, self.takedown.id),
        )

    def upload(self) -> None:
        """Put what was built beside the old files."""
        for file in self.new:
            self.store.put_file(f"{self.prefix}/{file.name}", self._local / file.name)

    @property
    def _local(self) -> Path:
        return self.scratch / "snapshot"

    def _folder(self, name: str, cache: FileCache) -> Folder:
        return Folder(
            self.store, self.prefix, self.manifest, name, self.takedown.id, cache, self._local
        )

    def _note(self, files: Rewritten) -> None:
        self.old += files.old
        self.new += files.new

    def _slice(
        self,
        domain: DomainSlice,
        train: Sequence[ForgottenDocument],
        held: Sequence[ForgottenDocument],
    ) -> DomainSlice:
        clusters = domain.holdout_clusters
        if held:
            clusters -= self._clusters_gone(domain.domain, {one.row for one in held})
        return dataclasses.replace(
            domain,
            train_tokens=domain.train_tokens - sum(one.tokens for one in train),
            train_documents=domain.train_documents - len(train),
            holdout_documents=domain.holdout_documents - len(held),
            holdout_clusters=clusters,
            holdout_tokens=domain.holdout_tokens - self._held_tokens(held),
        )

    def _held_tokens(self, held: Sequence[ForgottenDocument]) -> int:
        """With both framing tokens, which held-out documents always have."""
        both = int(self.manifest.start_id == self.manifest.end_id)
        return sum(one.tokens + both for one in held)

    def _clusters_gone(self, domain: str, rows: set[int]) -> int:
        """Held-out clusters of which no document stays."""
        import pyarrow.parquet as pq  # noqa: PLC0415  heavy

        table = pq.read_table(self._fetched(DOCUMENTS), columns=["domain", "split", "cluster_key"])
        gone: set[bytes] = set()
        kept: set[bytes] = set()
        for row, values in enumerate(table.to_pylist()):
            if (values["domain"], values["split"]) == (domain, "holdout"):
                (gone if row in rows else kept).add(values["cluster_key"])
        return len(gone - kept)

    def _tables(self, documents: Sequence[ForgottenDocument]) -> None:
        file, target = self._begin(DOCUMENTS)
        without_documents(self._fetched(DOCUMENTS), target, documents)
        self._end(file, target)
        if find_file(self.manifest.files, ANNOTATIONS) is not None:
            file, target = self._begin(ANNOTATIONS)
            without_annotations(self._fetched(ANNOTATIONS), target, documents)
            self._end(file, target)

    def _lists(self, documents: Sequence[ForgottenDocument]) -> None:
        passages = Passages(self.takedown.windows)
        for name in (LEAKS, EXAMPLES):
            if find_file(self.manifest.files, name) is not None:
                file, target = self._begin(name)
                before = read_verified(self.store, self.prefix, file)
                after = without_lines(before, documents, passages)
                if after != before:
                    target.write_bytes(after)
                    self._end(file, target)
        file, target = self._begin(REJECTS)
        changed = without_details(read_verified(self.store, self.prefix, file), documents, passages)
        if changed is not None:
            target.write_bytes(changed)
            self._end(file, target)

    def _unigram(self, counts: NDArray[np.int64]) -> None:
        file, target = self._begin(UNIGRAM)
        before = np.frombuffer(read_verified(self.store, self.prefix, file), "<i8")
        target.write_bytes((before - counts).astype("<i8").tobytes())
        self._end(file, target)

    def _fetched(self, name: str) -> Path:
        file = file_named(self.manifest.files, name, f"snapshot {self.manifest.id}")
        return fetch_verified(self.store, self.prefix, file, self.scratch / f"old-{name}")

    def _begin(self, name: str) -> tuple[FileDigest, Path]:
        """A file as it is, and where it is written anew."""
        file = file_named(self.manifest.files, name, f"snapshot {self.manifest.id}")
        self._local.mkdir(exist_ok=True)
        return file, self._local / revised_name(name, self.takedown.id)

    def _end(self, file: FileDigest, target: Path) -> None:
        self.old.append(file)
        self.new.append(digest_file(target, target.name))
