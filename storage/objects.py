"""The object store: a few verbs over keys, the same on a local directory and on S3.

Keys are ``/``-separated relative paths; no ``..``, no absolute paths, no NUL, no symlinks followed
out of the root. Conditional writes are what every commit rests on (docs/design.md, section 4).
"""

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from storage.errors import AlreadyExistsError, ConflictError, UnsafeStoreError

PRIVATE = ".perennial"
"""Directory under a local root for temporary and lock files; no key of any store may start so."""
LEFTOVER_SECONDS = 24 * 3600.0
"""Age at which what a dead process left behind is removed."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One row of a listing."""

    key: str
    size: int
    """Bytes."""
    modified_at: float
    """Seconds since the epoch, as the store says; for grace times only, never for decisions of
    order."""


@dataclass(frozen=True, slots=True)
class ObjectVersion:
    """One thing that a store keeps under a key: an object, or what it was before."""

    key: str
    version: str
    """As the store names it; "" where it keeps no versions."""
    size: int
    """Bytes."""
    is_newest: bool
    is_marker: bool
    """Only says that the object was deleted; has no bytes."""


class ObjectStore(Protocol):
    """What Perennial needs of a store. Every verb is safe to retry."""

    @property
    def uri(self) -> str:
        """``file:///...`` or ``s3://bucket/prefix``."""
        ...

    def get(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        """The object's bytes, or a range of them. Raises NotFoundError."""
        ...

    def get_with_etag(self, key: str) -> tuple[bytes, str]:
        """The bytes and the entity tag that ``put_if_match`` wants. Raises NotFoundError."""
        ...

    def put(self, key: str, body: bytes) -> None:
        """Write whole or not at all, durable on return; replaces an object of that key."""
        ...

    def put_if_absent(self, key: str, body: bytes) -> None:
        """Create, durable on return.

        Of many racing writers one wins; the others get AlreadyExistsError. When the existing bytes
        are equal to ``body`` the call succeeds: a write whose answer was lost is our own.
        """
        ...

    def put_if_match(self, key: str, body: bytes, etag: str) -> str:
        """Replace if the entity tag is still ``etag``; returns the new tag.

        Equal bytes are not taken for our own: two counters that both write 6 would lose a count.

        Raises:
            ConflictError: The object has another tag.
            NotFoundError: There is no object.
        """
        ...

    def put_file(
        self,
        key: str,
        path: Path,
        *,
        bytes_per_second: float | None = None,
        may_link: bool = False,
    ) -> None:
        """Upload a local file, whole or not at all, durable on return.

        Args:
            key: Its name in the store.
            path: The file.
            bytes_per_second: At most so fast on average; None: as fast as it goes.
            may_link: Nobody writes to the file again, so that a store on the same disk may take it
                as its own without a copy.
        """
        ...

    def get_file(self, key: str, path: Path) -> None:
        """Download to ``path``, which appears whole or not at all. Raises NotFoundError."""
        ...

    def exists(self, key: str) -> bool:
        """Whether the key holds an object."""
        ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Objects whose key starts with ``prefix + "/"``, in order of their keys."""
        ...

    def delete(self, key: str) -> None:
        """Remove the object; one that is not there is no error."""
        ...

    def list_versions(self, prefix: str) -> Iterator[ObjectVersion]:
        """As ``list``, with what objects were before they were replaced or deleted."""
        ...

    def get_version(
        self, key: str, version: str, *, start: int = 0, length: int | None = None
    ) -> bytes:
        """The bytes of one version, or a range of them. Raises NotFoundError."""
        ...

    def purge(self, key: str, *, keep_newest: bool = False) -> int:
        """Remove every version of an object for good; returns how many. Safe to retry.

        With ``keep_newest`` what can be read under the key stays.
        """
        ...

    def local_path(self, key: str) -> Path | None:
        """The object as a local file that needs no copy, or None when it has to be fetched."""
        ...

    def list_uploads(self, prefix: str) -> Iterator[ObjectInfo]:
        """Uploads under ``prefix`` that began and did not end, which ``list`` does not show.

        ``modified_at`` is when they began. What of them has arrived is not told: ``size`` is 0.
        """
        ...

    def abort_uploads(self, prefix: str, *, older_than: float) -> int:
        """Drop what dead writers began to upload under ``prefix``; returns how many uploads.

        Args:
            prefix: As of ``list``.
            older_than: Only those begun before it; seconds since the epoch.
        """
        ...


def check_key(key: str) -> str:
    """Return ``key`` if it is a plain relative path, else raise ValueError."""
    parts = key.split("/")
    if "\0" in key or any(part in ("", ".", "..") for part in parts) or parts[0] == PRIVATE:
        raise ValueError(
            f"{key!r} is not a valid key: expected names joined by '/', none of them empty, "
            f"'.' or '..', no NUL, not starting with '/' or {PRIVATE!r}"
        )
    return key


def check_range(key: str, start: int, length: int | None) -> None:
    """Raise ValueError for a range that no object can have."""
    if start < 0 or (length is not None and length < 0):
        raise ValueError(
            f"cannot read {length} bytes from {start} of {key!r}: both must be at least 0"
        )


def open_store(uri: str) -> ObjectStore:
    """The store at ``uri``; a directory that does not exist yet is created, a bucket is not.

    Credentials, region and endpoint of a bucket come from boto3's own chain (environment, profile,
    instance), never from the URI. Nothing is sent before the first verb.

    Raises:
        ValueError: Not a URI that this version can open.
    """
    if uri.startswith("s3:"):
        from storage.s3 import open_bucket  # noqa: PLC0415  only those who use it pay for it

        return open_bucket(uri)
    parts = urlsplit(uri)
    path = unquote(parts.path)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost") or not path.startswith("/"):
        raise ValueError(
            f"cannot open the store {uri!r}: expected file:/// followed by an absolute path, "
            "e.g. file:///var/lib/perennial, or s3://bucket/prefix"
        )
    from storage.local_objects import LocalObjects  # noqa: PLC0415  it imports this module

    return LocalObjects(Path(path))


def probe(store: ObjectStore) -> None:
    """Refuse a store whose conditional writes are not conditional, or never succeed.

    Writes one small object of a fresh name and removes it again, so it is cheap and safe to repeat.
    The writers of a lineage's first head and of its first lease call it.

    Raises:
        UnsafeStoreError: A second writer would have won, or the first one was refused.
    """
    key = f"probe/{os.urandom(16).hex()}"
    try:
        store.put_if_absent(key, b"first")
        _, etag = store.get_with_etag(key)
        with contextlib.suppress(AlreadyExistsError):
            store.put_if_absent(key, b"second")
        if store.get(key) == b"first":
            for body in (b"third", b"fourth"):
                with contextlib.suppress(ConflictError):
                    store.put_if_match(key, body, etag)
        found = store.get(key)
    finally:
        _delete_probes(store, key)
    ignored = {b"second": "put-if-absent", b"fourth": "put-if-match"}.get(found)
    if ignored is not None:
        raise UnsafeStoreError(
            f"the store {store.uri} lets a second writer win: {ignored} of a taken key succeeds, "
            "so two updates could both commit; use a store with conditional writes"
        )
    if found != b"third":
        raise UnsafeStoreError(
            f"the store {store.uri} refuses put-if-match with the entity tag that it has just "
            "given, so no lease could be renewed; use a store with conditional writes"
        )


def _delete_probes(store: ObjectStore, own: str) -> None:
    """Remove our probe, and those of processes that died while they probed."""
    store.delete(own)
    for info in store.list("probe"):
        if info.modified_at < time.time() - LEFTOVER_SECONDS:
            store.delete(info.key)
