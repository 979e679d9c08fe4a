"""From a source's files to documents: what is there, what of it is new, and what is in it."""

import hashlib
import logging
import os
import stat
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO

from tasks.documents import (
    Document,
    Provenance,
    Reject,
    SourceObject,
    SourceRefusedError,
    printable,
)
from tasks.readers import Place, Record, read_jsonl, read_text
from tasks.reading.code import read_code
from tasks.reading.columns import read_arrow, read_parquet
from tasks.reading.csv_rows import read_csv
from tasks.reading.dates import date_of
from tasks.reading.html import read_html
from tasks.reading.licence_files import LicenceFiles
from tasks.reading.warc import read_warc
from tasks.sources import (
    FileFormat,
    SourceConfig,
    compression_of,
    delimiters_of,
    format_of,
    is_claimed,
    root_and_pattern,
)

logger = logging.getLogger(__name__)

_RETRY_REASONS = frozenset({"unreadable", "changed"})
# Nobody can mend what holds nothing: a package's marker, the log of a quiet night, a page of links.
_NOT_COUNTED = frozenset({"empty_file", "no_main_text"})
_EARLY_STOP_LINES = 1000
_NUM_EXAMPLES = 3


def list_source(source: SourceConfig) -> list[SourceObject]:
    """The files of a source in canonical order, by URI. Safe to retry; reads licence files only.

    No match is not an error: a source may be empty for now. Files that no format claims are left
    out. Both are logged.
    """
    root, pattern = root_and_pattern(source)
    listed: list[SourceObject] = []
    num_skipped = 0
    licences = LicenceFiles(root)
    for path in root.glob(pattern):
        relative = path.relative_to(root)
        # An editor's swap file or a version control directory is not meant, unless it is named.
        if "/." not in f"/{pattern}" and any(part.startswith(".") for part in relative.parts):
            continue
        try:
            status = path.stat()
        except OSError as error:
            logger.warning("source %s: left out %r: %s", source.name, str(path), error)
            continue
        if not stat.S_ISREG(status.st_mode):
            continue
        if _is_utf8(path) and is_claimed(source, path, pattern):
            is_document = format_of(source, path.name) in ("html", "text", "code")
            listed.append(
                SourceObject(
                    uri=str(path),
                    size=status.st_size,
                    etag=_local_etag(status),
                    licence=licences.nearest(path.parent) if is_document else "",
                )
            )
        else:
            num_skipped += 1
    if num_skipped:
        logger.warning(
            "source %s: left out %d files whose name is not UTF-8 or whose suffix format %r does "
            "not read; name a format or suffixes to read them",
            source.name,
            num_skipped,
            source.format,
        )
    if not listed:
        logger.warning("source %s: no file matches %s", source.name, source.uri)
    return sorted(listed, key=lambda found: found.uri)


def new_objects(listed: Iterable[SourceObject], marks: Mapping[str, str]) -> list[SourceObject]:
    """What was never read or has changed since; a changed file is read again from its start."""
    return [found for found in listed if marks.get(found.uri) != found.etag]


def next_marks(
    marks: Mapping[str, str], objects: Iterable[SourceObject], rejects: Iterable[Reject] = ()
) -> dict[str, str]:
    """Marks after ``objects`` were read: etag by URI.

    Files that could not be opened (see ``rejects``) are not marked, so that the next refresh tries
    again. Files that are gone stay marked, so that one that comes back is not read twice.
    """
    unread = {reject.uri for reject in rejects if reject.reason in _RETRY_REASONS}
    read = {found.uri: found.etag for found in objects if found.uri not in unread}
    return dict(marks) | read


def read_objects(
    source: SourceConfig, objects: Collection[SourceObject], reject: Callable[[Reject], None]
) -> Iterator[Document]:
    """Documents of ``objects`` by URI, then by position; what cannot be read goes to ``reject``.

    Every line, row or file gives either a document or a reject. Memory is bounded by
    ``max_document_bytes``; with ``fields.id`` it also grows by one hash a document.

    Raises:
        SourceRefusedError: More than ``reject_limit`` was rejected; after the last document, or
            as soon as a reject finds it so once 1,000 lines were seen.
    """
    root, _ = root_and_pattern(source)
    tally = _Tally(source)
    seen_ids: set[bytes] = set()
    for found in sorted(objects, key=lambda found: found.uri):
        # Relative to the root, so that moving a tree elsewhere changes no id and no holdout.
        relative = Path(found.uri).relative_to(root).as_posix()
        for item in _read_object(source, found):
            if isinstance(item, Record):
                item = _check_id(item, found.uri, seen_ids)
            if isinstance(item, Record):
                tally.num_read += 1
                yield _document(source, found, relative, item)
            else:
                reject(item)
                if item.reason not in _NOT_COUNTED:
                    tally.num_read += 1
                    tally.add(item)
    tally.check()


class _Tally:
    """Counts of one source, and its refusal."""

    def __init__(self, source: SourceConfig) -> None:
        self.num_read = 0
        self._source = source
        self._reasons: Counter[str] = Counter()
        self._examples: list[Reject] = []

    def add(self, reject: Reject) -> None:
        self._reasons[reject.reason] += 1
        if len(self._examples) < _NUM_EXAMPLES:
            self._examples.append(reject)
        if self.num_read >= _EARLY_STOP_LINES:
            self.check()

    def check(self) -> None:
        num_rejected = self._reasons.total()
        if num_rejected <= self._source.reject_limit * self.num_read:
            return
        counts = ", ".join(f"{reason} {count}" for reason, count in self._reasons.most_common())
        examples = "; ".join(
            f"{printable(reject.uri, limit=4096)}:{reject.position} {reject.reason} "
            f"({printable(reject.detail)})"
            for reject in self._examples
        )
        raise SourceRefusedError(
            f"source {self._source.name!r} is refused: {num_rejected} of {self.num_read} lines or "
            f"files were rejected ({counts}), above its reject_limit of "
            f"{self._source.reject_limit:g}; first: {examples}; "
            "mend the files or raise reject_limit"
        )


def _read_object(source: SourceConfig, found: SourceObject) -> Iterator[Record | Reject]:
    place = Place(uri=found.uri, fields=source.fields, max_document_bytes=source.max_document_bytes)
    try:
        with Path(found.uri).open("rb") as file:
            etag = _local_etag(os.fstat(file.fileno()))
            if etag == found.etag:
                yield from _read_or_empty(format_of(source, found.uri), file, place)
            else:
                # Its listing is in the snapshot's identity; the next refresh lists it anew.
                detail = f"listed as {found.etag}, now {etag}; the next refresh reads it"
                yield place.reject(0, "changed", detail)
    except OSError as error:
        yield place.reject(0, "unreadable", str(error))


def _read_or_empty(kind: FileFormat, file: IO[bytes], place: Place) -> Iterator[Record | Reject]:
    if not os.fstat(file.fileno()).st_size:
        yield place.reject(0, "empty_file", "the file has no bytes")
        return
    is_empty = True
    for item in _read_format(kind, file, place):
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


def _check_id(record: Record, uri: str, seen_ids: set[bytes]) -> Record | Reject:
    if not record.id:
        return record
    key = hashlib.blake2b(record.id.encode(), digest_size=16).digest()
    if key in seen_ids:
        detail = f"an earlier document of the source has the id {record.id!r}"
        return Reject(uri=uri, position=record.position, reason="duplicate_id", detail=detail)
    seen_ids.add(key)
    return record


def _document(source: SourceConfig, found: SourceObject, relative: str, record: Record) -> Document:
    made_up = f"{relative}#{record.position}" if record.position else relative
    document = record.id or made_up
    by = {
        "document": document,
        "file": relative,
        "directory": relative.partition("/")[0],
        "site": _site_of(record.address) or document,
    }
    return Document(
        id=document,
        cluster=record.cluster or by[source.cluster_by],
        text=record.text,
        source=source.name,
        uri=found.uri,
        position=record.position,
        domain=source.domain,
        licence=record.licence or found.licence or source.licence,
        time=record.time,
        date=date_of(record.time) if record.time else "",
        language=record.language,
        language_probability=record.language_probability,
        address=record.address,
        provenance=_provenance(source, record),
        synthetic_of=record.synthetic_of or ("" if record.provenance else source.synthetic_of),
    )


def _site_of(address: str) -> str:
    """Host of a URL without its port and ``www.``, "" when it has none."""
    host = address.partition("://")[2].partition("/")[0].rpartition("@")[2]
    return host.partition(":")[0].lower().removeprefix("www.")


def _provenance(source: SourceConfig, record: Record) -> Provenance:
    if record.synthetic_of or record.provenance == "synthetic":
        return "synthetic"
    return "real" if record.provenance else source.provenance


def _local_etag(status: os.stat_result) -> str:
    return f"{status.st_size}-{status.st_mtime_ns}"


def _is_utf8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True
