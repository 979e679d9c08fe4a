"""What a reader finds in a file, and the reader of plain text.

A reader is a function: an open file in, records and rejects out, in the order of the file. Nothing
in a file makes it raise: what cannot be read comes out as a Reject. Memory is bounded by the
largest document allowed.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

from tasks.documents import Reject
from tasks.line_stream import (
    Compression,
    DamagedStreamError,
    ExpansionError,
    Readable,
    decompress_parts,
    split_lines,
    until_damage,
)
from training.config import FORBID_UNKNOWN

BOM = b"\xef\xbb\xbf"
_ATTRIBUTES = (
    "id", "time", "cluster", "licence", "language", "address", "provenance", "synthetic_of",
)  # fmt: skip

NumberedLine: TypeAlias = bytes | Reject | None
"""A line, or what is wrong with the file at its place; None for a line above the limit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FieldNames:
    """Fields of a JSONL object or columns of a table; "" means that the source has none."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN

    text: str = "text"
    """The document itself; a string."""
    id: str = ""
    """Names the document within its source; file and line when not set."""
    time: str = ""
    """When it was written, in any notation."""
    cluster: str = ""
    """What belongs together (work, site, repository) and must not straddle the holdout."""
    licence: str = ""
    """The document's own licence; the source's where it is missing."""
    language: str = ""
    """Code of the language that it is in."""
    language_probability: str = ""
    """How sure that is; a number from 0 to 1."""
    address: str = ""
    """Where it was published (a URL)."""
    provenance: str = ""
    """``real`` or ``synthetic``; the source's where it is missing."""
    synthetic_of: str = ""
    """What it was made from or by, which makes it synthetic; the source's where it is missing."""

    def __post_init__(self) -> None:
        if not self.text:
            raise ValueError("fields.text is empty; name the field that holds the document's text")

    @property
    def named(self) -> tuple[str, ...]:
        """All fields that the source has, the text first, each once."""
        attributes = (getattr(self, kind) for kind in _ATTRIBUTES)
        names = (self.text, *attributes, self.language_probability)
        return tuple(dict.fromkeys(name for name in names if name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What a reader found; "" where the file says nothing."""

    position: int
    text: str
    id: str = ""
    time: str = ""
    cluster: str = ""
    licence: str = ""
    language: str = ""
    language_probability: float | None = None
    address: str = ""
    provenance: str = ""
    synthetic_of: str = ""
    is_page: bool = False
    """Whether the text is a web page, whose main text is yet to be taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a reader is and what it may accept."""

    uri: str
    fields: FieldNames
    max_document_bytes: int
    max_unpacked_bytes: int | None = None
    """Of a packed file; None: any number."""
    attributes: tuple[tuple[str, str], ...] = field(init=False)
    """What a document has besides its text, each with its field."""

    def __post_init__(self) -> None:
        pairs = ((kind, getattr(self.fields, kind)) for kind in _ATTRIBUTES)
        object.__setattr__(self, "attributes", tuple(pair for pair in pairs if pair[1]))

    def reject(self, position: int, reason: str, detail: str) -> Reject:
        """A Reject of this file."""
        return Reject(uri=self.uri, position=position, reason=reason, detail=detail)

    def oversized(self, position: int, found: str) -> Reject:
        """A Reject of a document above the limit."""
        return self.reject(
            position, "oversized", f"{found}, at most {self.max_document_bytes} are allowed"
        )

    def stopped(self, position: int, error: Exception) -> Reject:
        """A Reject of what lies behind the place where a stream of bytes broke off."""
        if isinstance(error, EOFError):
            return self.reject(position, "truncated_file", str(error))
        if isinstance(error, ExpansionError):
            return self.reject(position, "expansion", str(error))
        damaged = isinstance(error, DamagedStreamError)
        return self.reject(position, "damaged_file" if damaged else "unreadable", str(error))


def read_whole(file: Readable, place: Place) -> bytes | Reject:
    """All bytes of a file that is one document."""
    try:
        body = file.read(place.max_document_bytes + 1)
    except OSError as error:
        return place.stopped(0, error)
    if len(body) > place.max_document_bytes:
        return place.oversized(0, "the file has more bytes")
    return body


def read_text(file: Readable, place: Place) -> Iterator[Record | Reject]:
    """The file as one document: strict UTF-8, a byte order mark removed."""
    body = read_whole(file, place)
    yield body if isinstance(body, Reject) else plain(body, place, 0)


def plain(body: bytes, place: Place, position: int) -> Record | Reject:
    """Bytes that are a document as they are; ``position`` is 0 where they are the whole file."""
    try:
        text = body.removeprefix(BOM).decode()
    except UnicodeDecodeError as error:
        return place.reject(position, "bad_utf8", f"byte {error.start}: {error.reason}")
    if "\0" in text:
        detail = f"NUL at character {text.index(chr(0))}: a binary file?"
        return place.reject(position, "nul_bytes", detail)
    if not text or text.isspace():
        return place.reject(position, "empty" if position else "empty_file", "there is no text")
    return Record(position=position, text=text)


def numbered_lines(
    file: Readable, place: Place, compression: Compression, *, lines_before: int = 0
) -> Iterator[tuple[int, NumberedLine]]:
    """Lines (``split_lines``) with their numbers.

    A line that damage has cut is not among them. After damage to a packed file goes on what begins
    anew behind it (``decompress_parts``); how many lines were lost is not known, and they count as
    one.
    """
    position = lines_before
    parts = decompress_parts(file, compression, max_bytes=place.max_unpacked_bytes)
    is_damaged = True
    while is_damaged:
        is_damaged, first = False, position + 1
        lines = split_lines(until_damage(parts), place.max_document_bytes)
        try:
            for position, line in enumerate(lines, start=first):
                yield position, line
        except (EOFError, DamagedStreamError, OSError) as error:
            position += 1
            yield position, place.stopped(position, error)
            # Also of a stream that has ended with it: there is nothing more then.
            is_damaged = isinstance(error, DamagedStreamError)


def record_of(values: Mapping[str, object], place: Place, position: int) -> Record | Reject:
    """The document in an object or a row, or what is wrong with it."""
    fields = place.fields
    text = values.get(fields.text)
    if text is None:
        found = ", ".join(map(repr, list(values)[:8])) or "nothing"
        return place.reject(position, "missing_text", f"no text in {fields.text!r}, found {found}")
    if not isinstance(text, str):
        found = type(text).__name__
        return place.reject(position, "text_not_string", f"{fields.text!r} holds a {found}")
    if not text or text.isspace():
        return place.reject(position, "empty", f"{fields.text!r} has no text")
    attributes: dict[str, Any] = {}
    for kind, name in place.attributes:
        value = values.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        # Seconds since 1970; NaN is how some write that there is none.
        if isinstance(value, float) and kind == "time":
            value = str(value) if math.isfinite(value) else None
        if value is not None and not isinstance(value, str):
            found = type(value).__name__
            return place.reject(position, f"{kind}_not_string", f"{name!r} holds a {found}")
        # An id or cluster that was promised cannot be made up: the holdout would leak.
        if not value and kind in ("id", "cluster"):
            return place.reject(position, f"missing_{kind}", f"no {kind} in {name!r}")
        attributes[kind] = value or ""
    if attributes.get("provenance", "") not in ("", "real", "synthetic"):
        detail = f"expected real or synthetic, found {attributes['provenance']!r}"
        return place.reject(position, "unknown_provenance", detail)
    try:
        for string in (text, *attributes.values()):
            string.encode()
    except UnicodeEncodeError as error:
        detail = f"half a surrogate pair at character {error.start}"
        return place.reject(position, "lone_surrogate", detail)
    probability = None
    if fields.language_probability:
        try:
            probability = _probability(values.get(fields.language_probability))
        except ValueError as error:
            return place.reject(position, "language_probability_not_valid", str(error))
    return Record(position=position, text=text, language_probability=probability, **attributes)


def _probability(value: object) -> float | None:
    """From 0 to 1, also of the text of a number; None for nothing. Raises ValueError."""
    if value is None or value == "":
        return None
    if not isinstance(value, int | float | str):
        raise ValueError(f"expected a number from 0 to 1, found a {type(value).__name__}")  # noqa: TRY004  told as a reject
    try:
        probability = float(value)
    except OverflowError as error:
        raise ValueError("expected a number from 0 to 1, found a far larger integer") from error
    # Not "outside": NaN compares as neither.
    if not 0 <= probability <= 1:
        raise ValueError(f"expected a number from 0 to 1, found {probability}")
    return probability
