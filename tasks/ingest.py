"""From a source's files to documents: what is there, what of it is new, and what is in it."""

import hashlib
import logging
import os
import stat
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from tasks.documents import (
    Document,
    Provenance,
    ReadPart,
    Reject,
    SourceObject,
    SourceRefusedError,
    printable,
)
from tasks.readers import Record
from tasks.reading.bucket_source import is_in_bucket, list_bucket, name_in_bucket
from tasks.reading.dates import date_of
from tasks.reading.growth import is_unchanged, mark_of, read_mark
from tasks.reading.html import with_main_text
from tasks.reading.licence_files import LicenceFiles
from tasks.reading.source_file import local_etag, read_file
from tasks.sources import (
    EVERYTHING,
    SourceConfig,
    format_of,
    is_claimed,
    is_named,
    root_and_pattern,
)

logger = logging.getLogger(__name__)

RETRIED_REASONS = frozenset({"unreadable", "changed"})
"""Rejects after which the next refresh reads the file again."""
# Nobody can mend what holds nothing: a package's marker, the log of a quiet night.
_NOT_COUNTED = frozenset({"empty_file"})
_EARLY_STOP_LINES = 1000
_NUM_EXAMPLES = 3


_NO_PARTS: Mapping[str, ReadPart] = {}


def list_source(source: SourceConfig) -> list[SourceObject]:
    """The files of a source in canonical order, by URI. Safe to retry; reads licence files only.

    No match is not an error: a source may be empty for now. Files that no format claims are left
    out. Both are logged. Of a bucket it raises AccessError and UnavailableError.
    """
    in_bucket = is_in_bucket(source.uri)
    listed, skipped = list_bucket(source) if in_bucket else _list_local(source)
    if skipped:
        names = ", ".join(map(printable, skipped[:_NUM_EXAMPLES]))
        logger.warning(
            "source %s: left out %d files whose name is not UTF-8 or whose suffix format %r does "
            "not read (%s); name a format or suffixes to read them",
            source.name,
            len(skipped),
            source.format,
            names + (", ..." if len(skipped) > _NUM_EXAMPLES else ""),
        )
    if not listed:
        logger.warning("source %s: no file matches %s", source.name, source.uri)
    return sorted(listed, key=lambda found: found.uri)


def _list_local(source: SourceConfig) -> tuple[list[SourceObject], list[str]]:
    """The files that are read, and the names of those that no format claims."""
    root, pattern = root_and_pattern(source)
    listed: list[SourceObject] = []
    skipped: list[str] = []
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
            if problem := _not_read(path, status.st_mode):
                logger.warning("source %s: left out %r: %s", source.name, str(path), problem)
            continue
        by_pattern, named = pattern != EVERYTHING, is_named(source, path)
        is_meant = is_claimed(source, path.name, is_named=named, by_pattern=by_pattern)
        if not is_meant or not _is_utf8(path):
            skipped.append(path.name)
            continue
        is_document = format_of(source, path.name) in ("html", "text", "code")
        listed.append(
            SourceObject(
                uri=str(path),
                size=status.st_size,
                etag=local_etag(status),
                licence=licences.nearest(path.parent) if is_document else "",
            )
        )
    return listed, skipped


def _not_read(path: Path, mode: int) -> str:
    """Why something that is no file holds nothing for us; "" for a directory that was looked into.

    Opening a named pipe would wait for its writer, and reading a device may never end.
    """
    if not stat.S_ISDIR(mode):
        return "it is a named pipe, socket or device; only regular files are read"
    # A glob passes over what it may not list, and over links to directories, without a word.
    if path.is_symlink():
        return "a link to a directory is not followed; name it in the uri to read what is there"
    return "" if os.access(path, os.R_OK | os.X_OK) else "the directory may not be listed"


def new_objects(listed: Iterable[SourceObject], marks: Mapping[str, str]) -> list[SourceObject]:
    """What was never read or has changed since, with what kind of change it is.

    A file of JSONL that only grew is read from where it ended; any other changed file again from
    its start. To tell them apart the part that was read is read once more, as bytes.
    """
    changed: list[SourceObject] = []
    for found in listed:
        mark = marks.get(found.uri)
        if mark is None:
            changed.append(found)
            continue
        etag, part = read_mark(mark)
        if etag == found.etag:
            continue
        if part is not None and _has_grown(found, part):
            changed.append(replace(found, change="grown", read_before=part))
        else:
            changed.append(replace(found, change="replaced"))
    return changed


def describe_changes(found: Iterable[SourceObject]) -> str:
    """How many files of each kind of change there are, such as ``2 grown, 1 new``."""
    counts = Counter(one.change for one in found)
    return ", ".join(f"{counts[change]:,} {change}" for change in sorted(counts))


def next_marks(
    marks: Mapping[str, str],
    objects: Iterable[SourceObject],
    rejects: Iterable[Reject] = (),
    parts: Mapping[str, ReadPart] = _NO_PARTS,
) -> dict[str, str]:
    """Marks after ``objects`` were read, by URI.

    Files that could not be read to their end (see ``rejects``) are not marked, so that the next
    refresh tries again. Files that are gone stay marked, so that one that comes back is not read
    twice. Of ``parts``, told by ``read_objects``, only what is added needs to be read next time.
    """
    unread = {reject.uri for reject in rejects if reject.reason in RETRIED_REASONS}
    read = {
        found.uri: mark_of(found.etag, parts.get(found.uri))
        for found in objects
        if found.uri not in unread
    }
    return dict(marks) | read


def _forget(uri: str, part: ReadPart) -> None:
    """Note nothing, for who reads a source once."""


def read_objects(
    source: SourceConfig,
    objects: Collection[SourceObject],
    reject: Callable[[Reject], None],
    note_part: Callable[[str, ReadPart], None] = _forget,
) -> Iterator[Document]:
    """The documents of ``read_items`` with their texts; what cannot be read goes to ``reject``."""
    for found in read_items(source, objects, note_part):
        item = with_main_text(found) if isinstance(found, Document) else found
        if isinstance(item, Document):
            yield item
        else:
            reject(item)


def read_items(
    source: SourceConfig,
    objects: Collection[SourceObject],
    note_part: Callable[[str, ReadPart], None] = _forget,
) -> Iterator[Document | Reject]:
    """Documents and rejects of ``objects`` by URI, then by position.

    Every line, row or file gives either a document or a reject; of a web page the main text is yet
    to be taken (``with_main_text``). Memory is bounded by
    ``max_document_bytes``; with ``fields.id`` it also grows by one hash a document.

    Raises:
        SourceRefusedError: More than ``reject_limit`` was rejected; after the last document, or
            as soon as a reject finds it so once 1,000 lines were seen.
    """
    name_of = names_of(source)
    tally = _Tally(source)
    seen_ids: set[bytes] = set()
    for found in sorted(objects, key=lambda found: found.uri):
        relative = name_of(found.uri)
        for item in read_file(source, found, note_part):
            if isinstance(item, Record):
                item = _check_id(item, found.uri, seen_ids)
            if isinstance(item, Record):
                tally.num_read += 1
                yield _document(source, found, relative, item)
            else:
                yield item
                if item.reason not in _NOT_COUNTED:
                    tally.num_read += 1
                    tally.add(item)
    tally.check()


def names_of(source: SourceConfig) -> Callable[[str], str]:
    """Gives the name of each file of a source, by which its documents are known.

    Relative to the root, so that moving a tree elsewhere changes no id and no holdout.
    """
    if is_in_bucket(source.uri):
        return partial(name_in_bucket, source)
    root = root_and_pattern(source)[0]
    return lambda uri: Path(uri).relative_to(root).as_posix()


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
        is_page=record.is_page,
    )


def _site_of(address: str) -> str:
    """Host of a URL without its port and ``www.``, "" when it has none."""
    host = address.partition("://")[2].partition("/")[0].rpartition("@")[2]
    return host.partition(":")[0].lower().removeprefix("www.")


def _provenance(source: SourceConfig, record: Record) -> Provenance:
    if record.synthetic_of or record.provenance == "synthetic":
        return "synthetic"
    return "real" if record.provenance else source.provenance


def _has_grown(found: SourceObject, part: ReadPart) -> bool:
    try:
        return found.size >= part.num_bytes and is_unchanged(Path(found.uri), part)
    except OSError:
        # Reading it will say what is wrong.
        return False


def _is_utf8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True
