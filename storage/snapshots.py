"""Snapshots: immutable, content-addressed sets of token shards, one a refresh at most."""

from dataclasses import dataclass, replace

from storage.errors import AlreadyExistsError, ConflictError, CorruptError
from storage.head import SnapshotRole
from storage.layout import Layout
from storage.manifest import (
    FileDigest,
    content_hash,
    publish,
    readable_json,
    unseal,
    verify,
)
from storage.objects import ObjectStore

DOCUMENTS = "documents.parquet"
"""Name of a snapshot's table of documents, one row each, also the dropped ones."""
UNIGRAM = "unigram.bin"
"""How often each token is a target in training documents, little-endian ``int64[vocab_size]``."""


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
    return parse_snapshot_manifest(store.get(layout.snapshot_manifest(snapshot)), layout, snapshot)


def parse_snapshot_manifest(body: bytes, layout: Layout, snapshot: str) -> SnapshotManifest:
    """The manifest of ``snapshot`` from its bytes.

    Raises:
        CorruptError: It was altered.
    """
    key = layout.snapshot_manifest(snapshot)
    manifest = unseal(body, key, SnapshotManifest)
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
