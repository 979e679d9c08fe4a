"""The search that proves that nothing is left: every object, every version, every local copy.

Looked for are windows of the texts and of their tokens (``tasks.forget.passages``), in the bytes as
they lie and in what is packed in them: zstd, gzip, and the texts of Parquet tables.
"""

import gzip
import io
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard

from storage.errors import NotFoundError
from storage.objects import ObjectStore, ObjectVersion
from tasks.forget.passages import Passages

_PIECE_BYTES = 64 << 20
_ZSTD, _GZIP, _PARQUET = b"\x28\xb5\x2f\xfd", b"\x1f\x8b", b"PAR1"
Progress = Callable[[int, int], None]
"""Told how many objects are searched, and how many bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where passages of a forgotten text stand."""

    where: str
    """Key or path."""
    version: str
    """"" where no versions are kept."""
    passages: int
    """Different windows that were found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What was searched, and what was found."""

    objects: int
    versions: int
    """Of these objects, the newest included."""
    local_files: int
    num_bytes: int
    windows: int
    """That were looked for."""
    places: tuple[Place, ...]


def search_store(
    store: ObjectStore,
    prefix: str,
    passages: Passages,
    *,
    is_excepted: Callable[[str], bool] = lambda _: False,
    progress: Progress = lambda *_: None,
) -> Proof:
    """Search every version of every object under ``prefix``. Reads all of it, changes nothing.

    An object that is removed meanwhile is not counted.

    Args:
        store: Where to search.
        prefix: As of ``ObjectStore.list_versions``.
        passages: What to look for.
        is_excepted: Keys that are not searched.
        progress: Told after each object.
    """
    keys: set[str] = set()
    versions = num_bytes = 0
    places: list[Place] = []
    for version in store.list_versions(prefix):
        if version.is_marker or is_excepted(version.key):
            continue

        try:
            found = _found(_reader(store, version), version.size, passages)
        except NotFoundError:
            continue
        keys.add(version.key)
        versions += 1
        num_bytes += version.size
        if found:
            places.append(Place(where=version.key, version=version.version, passages=len(found)))
        progress(versions, num_bytes)
    return Proof(
        objects=len(keys),
        versions=versions,
        local_files=0,
        num_bytes=num_bytes,
        windows=len(passages),
        places=tuple(places),
    )


def search_files(paths: Iterable[tuple[str, Path]], passages: Passages) -> Proof:
    """Search local files, each with what it is called; one that is removed is not counted."""
    files = num_bytes = 0
    places: list[Place] = []
    for name, path in paths:
        try:
            with path.open("rb") as file:
                size = path.stat().st_size

                def read(start: int, length: int, file: Any = file) -> bytes:
                    file.seek(start)
                    return file.read(length)

                found = _found(read, size, passages)
        except FileNotFoundError:
            continue
        files += 1
        num_bytes += size
        if found:
            places.append(Place(where=name, version="", passages=len(found)))
    return Proof(
        objects=0,
        versions=0,
        local_files=files,
        num_bytes=num_bytes,
        windows=len(passages),
        places=tuple(places),
    )


def added(proofs: Iterable[Proof]) -> Proof:
    """Several searches for the same passages as one."""
    parts = list(proofs)
    return Proof(
        objects=sum(part.objects for part in parts),
        versions=sum(part.versions for part in parts),
        local_files=sum(part.local_files for part in parts),
        num_bytes=sum(part.num_bytes for part in parts),
        windows=max((part.windows for part in parts), default=0),
        places=tuple(place for part in parts for place in part.places),
    )


def found_in_bytes(body: bytes, passages: Passages) -> set[str]:
    """The windows that stand in an object, packed or not."""
    return _found(lambda start, length: body[start : start + length], len(body), passages)


def _reader(store: ObjectStore, version: ObjectVersion) -> Callable[[int, int], bytes]:
    return lambda start, length: store.get_version(
        version.key, version.version, start=start, length=length
    )


def _found(read: Callable[[int, int], bytes], size: int, passages: Passages) -> set[str]:
    found: set[str] = set()
    for start in range(0, size, _PIECE_BYTES):
        # So that what straddles two pieces is whole in one.
        found |= passages.found_in(read(start, _PIECE_BYTES + passages.longest))
    head = read(0, 4) if size else b""
    if head.startswith((_ZSTD, _GZIP)) or head == _PARQUET:
        for piece in _unpacked(read(0, size), head):
            found |= passages.found_in(piece)
    return found


def _unpacked(body: bytes, head: bytes) -> "Iterator[bytes | memoryview]":
    """What is packed in ``body``, in pieces; as much of a damaged one as can be read."""
    if head == _PARQUET:
        yield from _parquet_columns(body)
        return
    opened: Any = (
        zstandard.ZstdDecompressor().stream_reader(io.BytesIO(body), read_across_frames=True)
        if head == _ZSTD
        else gzip.GzipFile(fileobj=io.BytesIO(body))
    )
    carried = b""
    with opened as stream:
        while True:
            try:
                piece = stream.read(_PIECE_BYTES)
            except (zstandard.ZstdError, OSError, EOFError, zlib.error):
                return
            if not piece:
                return
            yield carried + piece
            carried = piece[-4096:]


def _parquet_columns(body: bytes) -> Iterator[memoryview]:
    """What the columns of a table hold, unpacked: the texts of a batch lie one behind the other."""
    import pyarrow as pa  # noqa: PLC0415  heavy, and the scheduler imports this module
    import pyarrow.parquet as pq  # noqa: PLC0415

    try:
        for batch in pq.ParquetFile(io.BytesIO(body)).iter_batches():
            for column in batch.columns:
                yield from (memoryview(part) for part in column.buffers() if part is not None)
    except (pa.ArrowException, OSError):
        return
