"""Manifests: the list of objects, with sizes and hashes, whose existence makes a result exist.

Data objects are written under a fresh prefix first, the manifest last and only if absent. Readers
verify what they read against it, so a missing, short or altered object is found before it is used.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from storage.errors import CorruptError, NotFoundError
from storage.objects import ObjectStore
from storage.rebuild import parse, rebuild

_T = TypeVar("_T")

_SEAL = "sha256"
_PIECE_BYTES = 8 << 20


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
    """Indented, sorted JSON with a final newline: for people to read, for ``unseal`` to rebuild.

    One more field, ``sha256``, is the identity of all others; without it a flipped digit would read
    as another value.
    """
    fields = json.loads(canonical_json(value))
    return _indented({**fields, _SEAL: identity_of(fields)})


def unseal(body: bytes, key: str, cls: type[_T]) -> _T:
    """Rebuild the dataclass ``cls`` from ``readable_json``; ``key`` names it in messages.

    Every byte counts, white space too: what is not the one text of its value was altered.

    Raises:
        CorruptError: A byte was altered, or a field is unknown, missing or of another type.
    """
    fields = parse(body, key)
    seal = fields.pop(_SEAL, None) if isinstance(fields, dict) else None
    if seal is None:
        raise CorruptError(
            f"{key} was altered: it has no {_SEAL} of its own fields, which every object is "
            "written with; restore it from a copy"
        )
    try:
        found = identity_of(fields)
        is_same = seal == found and body == _indented({**fields, _SEAL: seal})
    except ValueError as error:
        # JSON can spell infinity (1e999) and half a character, which no object is written with.
        raise CorruptError(f"{key} was altered: {error}; restore it from a copy") from error
    if not is_same:
        raise CorruptError(
            f"{key} was altered: it promises SHA-256 {str(seal)[:12]} of its fields, found "
            f"{found[:12]} or another layout; restore it from a copy"
        )
    return rebuild(fields, key, cls)


def load(store: ObjectStore, key: str, cls: type[_T]) -> _T:
    """Rebuild the dataclass ``cls`` from what ``publish`` wrote, checking every byte and type.

    A field that has a default may be missing, so that objects written before the field existed stay
    readable; everything else must match.

    Raises:
        NotFoundError: There is no such object.
        CorruptError: It was altered, or a field is unknown, missing or of another type.
    """
    return unseal(store.get(key), key, cls)


def verify(store: ObjectStore, prefix: str, files: Iterable[FileDigest]) -> None:
    """Check that every object of a manifest is there with its size; reading it checks the hash.

    Raises:
        CorruptError: Names the first object that is missing or has another size.
    """
    found = {info.key: info.size for info in store.list(prefix)}
    for file in files:
        check_found(f"{prefix}/{file.name}", file, found.get(f"{prefix}/{file.name}"))


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
    check_digest(key, file, digest_bytes(body, file.name))
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
        check_digest(key, file, digest_file(local, file.name))
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
    check_digest(key, file, found)
    return path


def check_stored(store: ObjectStore, prefix: str, file: FileDigest) -> None:
    """Check the object's every byte in pieces, keeping none; ``verify`` checks that it is there.

    Raises:
        NotFoundError: It is missing.
        CorruptError: It is short or altered.
    """
    key = f"{prefix}/{file.name}"
    digest = hashlib.sha256()
    size = 0
    for start in range(0, file.size, _PIECE_BYTES):
        piece = store.get(key, start=start, length=_PIECE_BYTES)
        digest.update(piece)
        size += len(piece)
    check_digest(key, file, FileDigest(file.name, size, digest.hexdigest()))


def check_found(key: str, file: FileDigest, size: int | None) -> None:
    """Check the size of what was found, None for nothing.

    Raises:
        CorruptError: It is missing or has another size.
    """
    if size is None:
        raise _missing(key, file)
    if size != file.size:
        raise CorruptError(
            f"{key} has {size} bytes, its manifest promises {file.size}; restore it from a copy"
        )


def check_digest(key: str, file: FileDigest, found: FileDigest) -> None:
    """Check what was found under ``key`` against the digest that a manifest promises.

    Raises:
        CorruptError: It has another size, or other bytes.
    """
    check_found(key, file, found.size)
    if found.sha256 != file.sha256:
        raise CorruptError(
            f"{key} was altered: its manifest promises SHA-256 {file.sha256[:12]}, "
            f"found {found.sha256[:12]}; restore it from a copy"
        )


def _indented(fields: dict[str, Any]) -> bytes:
    text = json.dumps(fields, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        # Not ``asdict``, which copies all that lies within first.
        return {field.name: getattr(value, field.name) for field in fields(value)}
    raise TypeError(
        f"cannot write a {type(value).__name__} as JSON; use a dataclass of plain values"
    )


def _missing(key: str, file: FileDigest) -> CorruptError:
    return CorruptError(
        f"{key} is missing, its manifest promises {file.size} bytes; restore it from a copy"
    )
