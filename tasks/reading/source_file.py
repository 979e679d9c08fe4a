"""One file of a source: opened as it was listed, and read by its format."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from storage.errors import ConflictError, NotFoundError
from storage.remote_files import open_remote
from tasks.documents import ReadPart, Reject, SourceObject
from tasks.readers import Place, Record, read_text
from tasks.reading.bucket_source import bucket_and_key, is_in_bucket
from tasks.reading.code import read_code
from tasks.reading.columns import read_arrow, read_parquet
from tasks.reading.csv_rows import read_csv
from tasks.reading.growth import GrowingFile
from tasks.reading.html import read_html
from tasks.reading.jsonl import read_jsonl
from tasks.reading.warc import read_warc
from tasks.sources import FileFormat, SourceConfig, compression_of, delimiters_of, format_of


def read_file(
    source: SourceConfig, found: SourceObject, note_part: Callable[[str, ReadPart], None]
) -> Iterator[Record | Reject]:
    """Records and rejects of a listed file, in its order; at least one of either.

    Args:
        source: Whose file it is.
        found: The file as it was listed; another one in its place is one reject, ``changed``.
        note_part: Told what of a file that may grow need not be read again.
    """
    place = Place(
        uri=found.uri,
        fields=source.fields,
        max_document_bytes=source.max_document_bytes,
        max_unpacked_bytes=source.unpacked_limit(found.size),
    )
    kind = format_of(source, found.uri)
    if is_in_bucket(found.uri):
        yield from _read_remote(kind, place, found)
        return
    may_grow = kind == "jsonl" and not compression_of(found.uri)
    try:
        with Path(found.uri).open("rb") as file:
            problem = _changed(file, found, may_grow)
            if not problem and not found.size:
                yield place.reject(0, "empty_file", "the file has no bytes")
            elif not problem and may_grow:
                yield from _read_log(file, place, found, note_part)
            elif not problem:
                yield from _or_empty(_read_format(kind, file, place), place)
            problem = problem or _changed(file, found, may_grow)
        if problem:
            # Its listing is in the snapshot's identity; the next refresh lists it anew.
            yield place.reject(0, "changed", f"{problem}; the next refresh reads it")
    except OSError as error:
        yield place.reject(0, "unreadable", str(error))


def _read_remote(kind: FileFormat, place: Place, found: SourceObject) -> Iterator[Record | Reject]:
    """An object of a bucket, in ranges; every one is of the version that was listed."""
    if not found.size:
        yield place.reject(0, "empty_file", "the object has no bytes")
        return
    bucket, key = bucket_and_key(found.uri)
    try:
        with open_remote(bucket, key, size=found.size, etag=found.etag) as file:
            yield from _or_empty(_read_format(kind, file, place), place)
    except NotFoundError as error:
        yield place.reject(0, "unreadable", str(error))
    except ConflictError as error:
        yield place.reject(0, "changed", f"{error}; the next refresh reads it")


def _changed(file: IO[bytes], found: SourceObject, may_grow: bool) -> str:
    """How an open file differs from its listing, "" when what was listed can be read."""
    status = os.fstat(file.fileno())
    etag = local_etag(status)
    # A log grows at any moment. What was listed of it is read, and the digest of that is marked.
    if etag == found.etag or (may_grow and status.st_size > found.size):
        return ""
    return f"listed as {found.etag}, now {etag}"


def _read_log(
    file: IO[bytes],
    place: Place,
    found: SourceObject,
    note_part: Callable[[str, ReadPart], None],
) -> Iterator[Record | Reject]:
    """A file of lines up to its listed size, from where the last refresh ended."""
    before = found.read_before
    try:
        growing = GrowingFile(file, found.size, before)
    except ValueError as error:
        yield place.reject(0, "changed", f"{error}; the next refresh reads all of it")
        return
    num_lines = before.num_lines if before else 0
    items = read_jsonl(growing, place, "", lines_before=num_lines)
    yield from items if before else _or_empty(items, place)
    note_part(found.uri, growing.part)


def _or_empty(items: Iterator[Record | Reject], place: Place) -> Iterator[Record | Reject]:
    is_empty = True
    for item in items:
        is_empty = False
        yield item
    if is_empty:
        yield place.reject(0, "empty_file", "the file holds no document")


def _read_format(kind: FileFormat, file: IO[bytes], place: Place) -> Iterator[Record | Reject]:
    if kind == "parquet":
        return read_parquet(file, place)
    if kind == "arrow":
        return read_arrow(file, place)
    if kind == "warc":
        return read_warc(file, place, compression_of(place.uri))
    if kind == "html":
        return read_html(file, place)
    if kind == "csv":
        return read_csv(file, place, compression_of(place.uri), delimiters_of(place.uri))
    if kind == "jsonl":
        return read_jsonl(file, place, compression_of(place.uri))
    return read_code(file, place) if kind == "code" else read_text(file, place)


def local_etag(status: os.stat_result) -> str:
    """The entity tag of a local file."""
    return f"{status.st_size}-{status.st_mtime_ns}"
