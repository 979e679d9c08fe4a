"""Manifests: the list of objects, with sizes and hashes, whose existence makes a result exist.

Data objects are written under a fresh prefix first, the manifest last and only if absent. Readers
verify what they read against it, so a missing, short or altered object is found before it is used.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from storage.errors import CorruptError, NotFoundError
from storage.objects import ObjectStore
from storage.rebuild import rebuild

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class FileDigest:
    """One object of a manifest."""

    name: str
    """Key relative to the prefix the manifest lies under."""
    size: int
    """Bytes."""
    sha256: str
    """Hex."""


def digest_file(path: Path, name: str) -> FileDigest:
    """The digest of a local file that will be stored as ``name``; reads it in pieces."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return FileDigest(name, file.tell(), sha256)


def digest_bytes(body: bytes, name: str) -> FileDigest:
    """The digest of an object ``name`` with content ``body``."""
    return FileDigest(name, len(body), hashlib.sha256(body).hexdigest())


def content_hash(files: Iterable[FileDigest]) -> str:
    """Hex SHA-256 over names, sizes and hashes; the order of ``files`` does not matter."""
    return identity_of(sorted((file.name, file.size, file.sha256) for file in files))


def canonical_json(value: Any) -> bytes:
    """The one JSON text of ``value``: sorted keys, no spaces, dataclasses as objects.

    Raises:
        ValueError: Not a number (NaN) or infinite, which JSON cannot say.
    """
    text = json.dumps(
        value,
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
        allow_nan=False,
        default=_plain,
    )
    return text.encode()


def identity_of(value: Any) -> str:
    """Hex SHA-256 of the canonical JSON of ``value``."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def publish(store: ObjectStore, key: str, value: Any) -> None:
    """Write a dataclass as readable JSON, once. Safe to retry: the same content again succeeds.

    Raises:
        AlreadyExistsError: The key holds other content.
    """
    store.put_if_absent(key, readable_json(value))


def readable_json(value: Any) -> bytes:
    """Indented, sorted JSON with a final newline: for people to read, for ``load`` to rebuild."""
    text = json.dumps(
        value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False, default=_plain
    )
    return text.encode() + b"\n"


def load(store: ObjectStore, key: str, cls: type[_T]) -> _T:
    """Rebuild the dataclass ``cls`` from the JSON at ``key``, checking every field's type.

    A field that has a default may be missing, so that objects written before the field existed stay
    readable; everything else must match.

    Raises:
        NotFoundError: There is no such object.
        CorruptError: It is not JSON, or a field is unknown, missing or of another type.
    """
    return rebuild(store.get(key), key, cls)


def verify(store: ObjectStore, prefix: str, files: Iterable[FileDigest]) -> None:
    """Check that every object of a manifest is there with its size; reading it checks the hash.

    Raises:
        CorruptError: Names the first object that is missing or has another size.
    """
    found = {info.key: info.size for info in store.list(prefix)}
    for file in files:
        _check_size(f"{prefix}/{file.name}", file, found.get(f"{prefix}/{file.name}"))


def read_verified(store: ObjectStore, prefix: str, file: FileDigest) -> bytes:
    """The object's bytes, checked against size and hash.

    Raises:
        CorruptError: It is missing, short or altered.
    """
    key = f"{prefix}/{file.name}"
    try:
        body = store.get(key)
    except NotFoundError as error:
        raise _missing(key, file) from error
    _check_digest(key, file, digest_bytes(body, file.name))
    return body


def fetch_verified(store: ObjectStore, prefix: str, file: FileDigest, path: Path) -> Path:
    """A local file with the object's content, checked against size and hash.

    Returns the store's own file when it has one, else ``path``, to which the object is downloaded
    unless a good copy lies there already. Safe to retry.

    Raises:
        CorruptError: It is missing, short or altered.
    """
    key = f"{prefix}/{file.name}"
    local = store.local_path(key)
    if local is not None:
        _check_digest(key, file, digest_file(local, file.name))
        return local
    if path.is_file() and digest_file(path, file.name) == file:
        return path
    try:
        store.get_file(key, path)
    except NotFoundError as error:
        raise _missing(key, file) from error
    found = digest_file(path, file.name)
    if found != file:
        path.unlink()
    _check_digest(key, file, found)
    return path


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(
        f"cannot write a {type(value).__name__} as JSON; use a dataclass of plain values"
    )


def _missing(key: str, file: FileDigest) -> CorruptError:
    return CorruptError(
        f"{key} is missing, its manifest promises {file.size} bytes; restore it from a copy"
    )


def _check_size(key: str, file: FileDigest, size: int | None) -> None:
    if size is None:
        raise _missing(key, file)
    if size != file.size:
        raise CorruptError(
            f"{key} has {size} bytes, its manifest promises {file.size}; restore it from a copy"
        )


def _check_digest(key: str, file: FileDigest, found: FileDigest) -> None:
    _check_size(key, file, found.size)
    if found.sha256 != file.sha256:
        raise CorruptError(
            f"{key} was altered: its manifest promises SHA-256 {file.sha256[:12]}, "
            f"found {found.sha256[:12]}; restore it from a copy"
        )
