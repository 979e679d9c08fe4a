"""Snapshots: immutable, content-addressed sets of token shards, one a refresh at most."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from storage.errors import AlreadyExistsError, ConflictError, CorruptError
from storage.head import SnapshotRole
from storage.layout import Layout
from storage.manifest import (
    FileDigest,
    content_hash,
    fetch_verified,
    load,
    publish,
    readable_json,
    verify,
)
from storage.objects import ObjectStore
from storage.revised import file_named

DOCUMENTS = "documents.parquet"
"""Name of a snapshot's table of documents, one row each, also the dropped ones."""
UNIGRAM = "unigram.bin"
"""How often each token is a target in training documents, little-endian ``int64[vocab_size]``."""

Keys = NDArray[np.bytes_]
"""``S16[n]``, sorted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainSlice:
    """What a snapshot holds of one domain."""

    domain: str
    train_samples: int
    """MDS rows under ``<domain>/train``, each ``seq_len + 1`` tokens."""
    train_tokens: int
    """Tokens of the training documents, separators included, padding not."""
    train_documents: int
    holdout_documents: int
    holdout_clusters: int
    holdout_tokens: int
    source_names: tuple[str, ...]
    licences: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedTask:
    """A set of task items that the snapshot's documents were searched for."""

    task: str
    items: str
    """Name of the file of its items, which is a hash of them; ``SuiteTask.file`` has the same."""
    documents_dropped: int
    """Documents that gave an item away, and are not in the training text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotManifest:
    """Everything a reader needs to know of a snapshot; ``manifest.json`` makes it exist."""

    id: str
    """First 12 hex digits of ``identity``."""
    lineage: str
    identity: str
    """SHA-256 of the inputs: listed source objects, the state of the lineage that it depends on,
    configuration."""
    content: str
    """SHA-256 over the digests of ``files``."""
    role: SnapshotRole
    minted_at: str
    """UTC, ISO 8601, not part of any identity."""
    tokenizer: str
    """Prefix of the tokenizer."""
    vocab_size: int
    start_id: int
    """Token that opens every document; attention never crosses it."""
    end_id: int
    seq_len: int
    """Inputs a sample; a row has one token more, the last target."""
    token_dtype: str
    """``uint16`` or ``uint32``."""
    domains: tuple[DomainSlice, ...]
    documents_read: int
    documents_dropped: dict[str, int]
    """By reason: duplicate, too_short, ..."""
    lines_rejected: dict[str, int]
    """By reason: malformed_json, bad_utf8, ..."""
    files: tuple[FileDigest, ...]
    checked_tasks: tuple[CheckedTask, ...] = ()
    """What the training text has none of."""
    checked_suite: str | None = None
    """Version of the suite that the lineage had then."""
    takedowns: tuple[str, ...] = ()
    """By which documents were taken out of it, in order: the id stays, ``content`` moves on."""


def mint(store: ObjectStore, layout: Layout, manifest: SnapshotManifest) -> SnapshotManifest:
    """Make a fully written snapshot exist; returns its manifest as stored.

    Safe to retry: when the snapshot exists with the same content, nothing is written and the stored
    manifest, with its earlier ``minted_at``, is returned.

    Raises:
        CorruptError: One of its files is missing or has another size.
        AlreadyExistsError: The same inputs gave another content before.
        ValueError: The manifest contradicts itself.
    """
    if manifest.id != manifest.identity[:12] or manifest.content != content_hash(manifest.files):
        raise ValueError(
            f"snapshot {manifest.id} contradicts itself: its id should be {manifest.identity[:12]} "
            f"and its content {content_hash(manifest.files)[:12]}, found {manifest.content[:12]}; "
            "compute both from identity and files"
        )
    verify(store, layout.snapshot(manifest.id), manifest.files)
    try:
        publish(store, layout.snapshot_manifest(manifest.id), manifest)
    except AlreadyExistsError as error:
        stored = read_snapshot(store, layout, manifest.id)
        if replace(manifest, minted_at=stored.minted_at) != stored:
            raise AlreadyExistsError(
                f"snapshot {manifest.id} exists with content {stored.content[:12]}, the same "
                f"inputs now gave {manifest.content[:12]}; the refresh is not deterministic"
            ) from error
        return stored
    return manifest


def read_snapshot(store: ObjectStore, layout: Layout, snapshot: str) -> SnapshotManifest:
    """The manifest of a snapshot whose files are all there with their sizes.

    Hashes are checked when the files are read (``storage.manifest.fetch_verified``).

    Raises:
        NotFoundError: There is no such snapshot.
        CorruptError: The manifest was altered, or a file is missing or has another size.
    """
    manifest = read_snapshot_manifest(store, layout, snapshot)
    verify(store, layout.snapshot(snapshot), manifest.files)
    return manifest


def read_snapshot_manifest(store: ObjectStore, layout: Layout, snapshot: str) -> SnapshotManifest:
    """The manifest alone, whose files are checked when they are read: lists no object.

    Raises:
        NotFoundError: There is no such snapshot.
        CorruptError: The manifest was altered.
    """
    key = layout.snapshot_manifest(snapshot)
    manifest = load(store, key, SnapshotManifest)
    identified = (manifest.id, manifest.lineage, manifest.identity[:12], manifest.content)
    if identified != (snapshot, layout.lineage, snapshot, content_hash(manifest.files)):
        raise CorruptError(
            f"{key} was altered: id, lineage, identity or content do not fit snapshot {snapshot} "
            f"of {layout.lineage}; restore it from a copy"
        )
    return manifest


def revise(
    store: ObjectStore, layout: Layout, old: SnapshotManifest, new: SnapshotManifest
) -> None:
    """Put a manifest of rewritten files in the place of the one that was read. Safe to retry.

    Readers have the old files or the new ones, never some of both.

    Raises:
        ConflictError: Somebody else has revised it; read it again.
        CorruptError: A file of the new manifest is missing or has another size.
    """
    verify(store, layout.snapshot(new.id), new.files)
    key = layout.snapshot_manifest(new.id)
    body, etag = store.get_with_etag(key)
    if body == readable_json(new):
        return
    if body != readable_json(old):
        raise ConflictError(f"{key} was revised by somebody else; run the same command again")
    store.put_if_match(key, readable_json(new), etag)


class KnownDocuments:
    """What earlier snapshots hold: contents, and the side on which each cluster fell.

    Sorted arrays, 16 bytes a document and 16 a cluster, so that ten million documents are 320 MB.
    """

    def __init__(self, contents: Keys, holdout_clusters: Keys, train_clusters: Keys) -> None:
        self._contents = contents
        self._holdout_clusters = holdout_clusters
        self._train_clusters = train_clusters

    def __len__(self) -> int:
        return len(self._contents)

    def has(self, digest: bytes) -> bool:
        """Whether a document of this content (16 bytes) was read before, kept or dropped."""
        return _contains(self._contents, digest)

    def split_of(self, cluster_key: bytes) -> Literal["train", "holdout"] | None:
        """The side of a cluster (16 bytes), None for one that is new.

        Holdout wins should a cluster be found on both sides: it must never be trained on again.
        """
        if _contains(self._holdout_clusters, cluster_key):
            return "holdout"
        return "train" if _contains(self._train_clusters, cluster_key) else None


def known_documents(
    store: ObjectStore, layout: Layout, ids: Iterable[str], kept_out: Iterable[bytes] = ()
) -> KnownDocuments:
    """The documents and clusters of the given snapshots, and contents that must not come in.

    Raises:
        NotFoundError: One of the snapshots does not exist.
        CorruptError: A table of documents is missing, altered or of another form.
    """
    columns: list[tuple[Keys, Keys, NDArray[np.str_]]] = []
    with TemporaryDirectory() as scratch:
        for snapshot in ids:
            manifest = read_snapshot(store, layout, snapshot)
            path = _documents_file(store, layout, manifest, Path(scratch))
            columns.append(_read_columns(path, f"{layout.snapshot(snapshot)}/{DOCUMENTS}"))
    return KnownDocuments(
        _sorted([np.array(list(kept_out), "S16"), *(contents for contents, _, _ in columns)]),
        _sorted([keys[splits == "holdout"] for _, keys, splits in columns]),
        _sorted([keys[splits == "train"] for _, keys, splits in columns]),
    )


def _documents_file(
    store: ObjectStore, layout: Layout, manifest: SnapshotManifest, scratch: Path
) -> Path:
    file = file_named(manifest.files, DOCUMENTS, layout.snapshot_manifest(manifest.id))
    path = scratch / f"{manifest.id}.parquet"
    return fetch_verified(store, layout.snapshot(manifest.id), file, path)


def _read_columns(path: Path, key: str) -> tuple[Keys, Keys, NDArray[np.str_]]:
    import pyarrow as pa  # noqa: PLC0415  slow to import, and a scheduler never reads documents
    import pyarrow.parquet as pq  # noqa: PLC0415

    try:
        table = pq.read_table(path, columns=["content", "cluster_key", "split"])
    except pa.ArrowException as error:
        raise CorruptError(
            f"{key} cannot be read as Parquet ({error}); restore it from a copy"
        ) from error
    wanted = pa.schema([("content", pa.binary(16)), ("cluster_key", pa.binary(16))])
    found = table.schema
    if [f.type for f in found][:2] != [f.type for f in wanted] or found.names[-1] != "split":
        raise CorruptError(
            f"{key} should have the columns content and cluster_key of 16 bytes and split, found "
            f"{dict(zip(found.names, map(str, found.types), strict=True))}; refresh again"
        )
    splits = table.column("split").to_numpy().astype(np.str_)
    return _keys_of(table.column("content")), _keys_of(table.column("cluster_key")), splits


def _keys_of(column: Any) -> Keys:
    """A chunked column of 16 bytes a row as ``S16[n]``."""
    parts = [np.empty(0, dtype="S16")]
    for chunk in column.chunks:
        rows = np.frombuffer(chunk.buffers()[1] or b"", dtype="S16")
        parts.append(rows[chunk.offset : chunk.offset + len(chunk)])
    return np.concatenate(parts)


def _sorted(parts: Sequence[Keys]) -> Keys:
    return np.unique(np.concatenate([np.empty(0, dtype="S16"), *parts]))


def _contains(keys: Keys, key: bytes) -> bool:
    # numpy drops trailing zero bytes when it gives an item out; of two different keys of 16 bytes
    # the shortened forms differ as well, so the comparison stays exact.
    wanted = key.rstrip(b"\0")
    index = int(np.searchsorted(keys, np.array(key, dtype="S16")))
    return index < len(keys) and keys[index] == wanted
