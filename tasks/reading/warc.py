"""WARC and WET: archived web pages in the order of the file; the position counts its records.

Documents are pages that a server answered with (status 200), pages kept without an answer
(``resource``) and texts made of pages (``conversion``, which is all of a WET file). Of pages the
main text is taken. Requests, redirects, pictures and the archive's own notes are no documents and
are passed over. Read by the standard (ISO 28500); the answers in it with warcio.
"""

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

from tasks.documents import Reject
from tasks.line_stream import Compression, DamagedStreamError, Readable
from tasks.readers import Place, Record, plain
from tasks.reading.html import page
from tasks.reading.http_answer import Answer, read_answer
from tasks.reading.record_stream import GapError, RecordBytes

_VERSION = re.compile(rb"WARC/\d+\.\d+\s*")
_HEAD_BYTES = 1 << 16
_LENGTH = re.compile(r"[0-9]{1,18}")
_CHARSET = re.compile(r"charset\s*=\s*[\"']?([\w.:-]{1,40})", re.IGNORECASE)
_PAGES = ("text/html", "application/xhtml+xml")
_TEXTS = ("text/plain", *_PAGES)
_UNSAID = {"response": "application/http", "conversion": "text/plain"}
"""What a record holds that does not say so."""

Head = Mapping[str, str]
"""Fields of a record's head, by their names in lower case."""


def read_warc(file: Readable, place: Place, compression: Compression) -> Iterator[Record | Reject]:
    """The documents of an archive. A damaged record is one reject, and the next one is looked for.

    What was altered is found by the record's digest, where it has one.
    """
    stream = RecordBytes(file, compression, place.max_unpacked_bytes)
    position = 0
    try:
        while True:
            position += 1
            try:
                if stream.is_at_end():
                    return
                item = _read_record(stream, place, position)
                if item is not None:
                    yield item
            except GapError as gap:
                yield place.reject(position, "damaged_record", str(gap))
                if not stream.to_next_record():
                    return
    except (EOFError, DamagedStreamError, OSError) as error:
        yield place.stopped(position, error)


def _read_record(stream: RecordBytes, place: Place, position: int) -> Record | Reject | None:
    """The next record's document, or None when it is not one."""
    head = _read_head(stream)
    size = int(head["content-length"])
    kind = _kind_of(head)
    if size > place.max_document_bytes:
        is_document = kind is not None and _may_be_document(kind, stream.peek(_HEAD_BYTES))
        # Not by its size, which may be the damage.
        stream.to_next_record()
        return place.oversized(position, f"a record of {size} bytes") if is_document else None
    block = stream.block(size)
    if block is None:
        raise GapError(f"the record does not end behind the {size} bytes that its head promises")
    if kind is None:
        return None
    if problem := _altered(head, block):
        return place.reject(position, "damaged_record", problem)
    found = _document(kind, block, place, position)
    if not isinstance(found, Record):
        return found
    languages = head.get("warc-identified-content-language", found.language)
    return replace(
        found,
        time=head.get("warc-date", ""),
        address=head.get("warc-target-uri", "").strip("<>"),
        language=languages.partition(",")[0].strip(),
    )


def _read_head(stream: RecordBytes) -> Head:
    version = stream.line(_HEAD_BYTES)
    if not _VERSION.fullmatch(version):
        raise GapError(f"expected a record that begins with WARC/1.0 or so, found {version[:40]!r}")
    head: dict[str, str] = {}
    size = 0
    name = ""
    while (line := stream.line(_HEAD_BYTES)).strip():
        size += len(line)
        text = line.decode(errors="replace")
        if name and text[0] in " \t" and size <= _HEAD_BYTES:
            head[name] += f" {text.strip()}"
            continue
        name, found, value = text.partition(":")
        if not found or size > _HEAD_BYTES:
            # It may be the begin of the next record.
            stream.give_back(line)
            raise GapError(f"expected a field of the record's head, found {line[:40]!r}")
        name = name.strip().lower()
        head[name] = value.strip()
    if not _LENGTH.fullmatch(head.get("content-length", "")):
        raise GapError(f"expected a Content-Length, found {head.get('content-length', '')[:40]!r}")
    if "warc-type" not in head:
        raise GapError("expected a WARC-Type in the record's head, found none")
    return head


def _kind_of(head: Head) -> str | None:
    """``http`` for an answer with a page in it, a media type of text, or None for no document."""
    record = head["warc-type"].lower()
    media = _media_type(head.get("content-type", "")) or _UNSAID.get(record, "")
    if record == "response":
        return "http" if media == "application/http" else None
    return media if record in ("resource", "conversion") and media in _TEXTS else None


def _may_be_document(kind: str, begin: bytes) -> bool:
    """Whether a record is no film or picture, as far as its first bytes tell."""
    if kind != "http":
        return True
    try:
        return _has_text(read_answer(begin))
    except ValueError:
        return True


def _has_text(answer: Answer) -> bool:
    return answer.status == "200" and _media_type(answer.content_type) in _TEXTS


def _document(kind: str, block: bytes, place: Place, position: int) -> Record | Reject | None:
    if kind == "text/plain":
        return plain(block, place, position)
    if kind != "http":
        return page(block, place, position)
    try:
        answer = read_answer(block)
        if not _has_text(answer):
            return None
        body = answer.body(place.max_document_bytes)
    except ValueError as error:
        return place.reject(position, "damaged_record", str(error))
    if len(body) > place.max_document_bytes:
        return place.oversized(position, "the page unpacked has more bytes")
    if _media_type(answer.content_type) == "text/plain":
        return plain(body, place, position)
    charset = _CHARSET.search(answer.content_type)
    return page(body, place, position, charset[1] if charset else "")


def _altered(head: Head, block: bytes) -> str:
    """What is wrong with the block by its digest, "" when nothing or when it has none."""
    algorithm, _, told = head.get("warc-block-digest", "").partition(":")
    if algorithm.lower() != "sha1":
        return ""
    digest = hashlib.sha1(block, usedforsecurity=False)
    known = (base64.b32encode(digest.digest()).decode(), digest.hexdigest().upper())
    if told.upper() in known:
        return ""
    return f"the record's digest is {known[0]}, its head promises {told}"


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()
