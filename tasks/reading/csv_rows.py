"""CSV and TSV: a header row, then a row a document, quoted as RFC 4180 has it."""

import csv
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from tasks.documents import Reject
from tasks.line_stream import Compression, Readable
from tasks.readers import BOM, Place, Record, numbered_lines, record_of

Fields = list[str]
_SURELY_ROWS = 20
"""One after the other, each with as many fields as the header: they are no lines of a text."""


class _Line(NamedTuple):
    """A line of the file with its end, but for LF; ``body`` is None for one above the limit."""

    position: int
    body: bytes | None


def read_csv(
    file: Readable, place: Place, compression: Compression, delimiters: str
) -> Iterator[Record | Reject]:
    """Rows of a table whose first row names the columns; the position is the line of a row's start.

    A quote that is never closed costs the row it stands in and no other: reading goes on with the
    next line. The limit on a document's bytes counts the whole row, as it is written.

    Args:
        file: Opened at its start.
        place: Where this is and what it may accept.
        compression: Of the file.
        delimiters: The first of these by which the header has the columns that are named.
    """
    # Of the whole process, and only ever raised; rows are limited before they get there.
    csv.field_size_limit(max(csv.field_size_limit(), place.max_document_bytes))
    lines = _Lines(file, place, compression)
    first = next((line for line in lines if line.body is None or line.body.strip()), None)
    if first is not None:
        header, delimiter = _header(first, lines, place, delimiters)
        if problem := _wrong_column(header, place):
            yield place.reject(0, "wrong_column", problem)
            return
        for line in lines:
            yield from lines.told()
            if line.body is None or line.body.strip():
                yield from _row(line, lines, place, header, delimiter)
    yield from lines.told()


class _Lines:
    """The lines of a file, of which some can be given back."""

    def __init__(self, file: Readable, place: Place, compression: Compression) -> None:
        self._damage: list[Reject] = []
        self._again: deque[_Line] = deque()
        self._rest = self._read(file, place, compression)

    def __iter__(self) -> Iterator[_Line]:
        return self

    def __next__(self) -> _Line:
        return self._again.popleft() if self._again else next(self._rest)

    def give_back(self, lines: list[_Line]) -> None:
        """Make ``lines`` the next ones."""
        self._again.extendleft(reversed(lines))

    def told(self) -> list[Reject]:
        """What of the file could not be read since this was asked last."""
        damage, self._damage = self._damage, []
        return damage

    def _read(self, file: Readable, place: Place, compression: Compression) -> Iterator[_Line]:
        """Lines that end with LF, unless the first one ends with CR: all such ends count then."""
        is_old_mac = None
        parts: list[_Line] = []
        for position, body in numbered_lines(file, place, compression):
            if isinstance(body, Reject):
                self._damage.append(body)
                parts.clear()
                continue
            if is_old_mac is None and (body is None or body.strip()):
                # Within quotes it is a part of a name.
                is_old_mac = _ends_with_cr(body) and (body or b"").count(b'"') % 2 == 0
            parts.append(_Line(position, body))
            if is_old_mac or not _ends_with_cr(body):
                yield _joined(parts, place.max_document_bytes)
                parts.clear()
        if parts:
            yield _joined(parts, place.max_document_bytes)


def _ends_with_cr(body: bytes | None) -> bool:
    return body is not None and body.endswith(b"\r")


def _joined(parts: list[_Line], limit: int) -> _Line:
    """One line of what CRs have cut."""
    if len(parts) == 1:
        return parts[0]
    bodies = [part.body for part in parts if part.body is not None]
    is_whole = len(bodies) == len(parts) and sum(map(len, bodies)) <= limit
    return _Line(parts[0].position, b"".join(bodies) if is_whole else None)


def _row(
    first: _Line, lines: _Lines, place: Place, header: Fields, delimiter: str
) -> Iterator[Record | Reject]:
    if first.body is None:
        yield place.oversized(first.position, "the line has more bytes")
        return
    # Also in the middle, where files were joined.
    body = first.body.removeprefix(BOM)
    first = first._replace(body=body)
    if b'"' not in body:
        fields, problem, taken = _text(body).rstrip("\r\n").split(delimiter), "", [first]
    else:
        fields, problem, taken = _quoted(
            first, lines, place.max_document_bytes, delimiter, len(header)
        )
    reason = "malformed_csv"
    if not problem and len(fields) != len(header):
        reason = "wrong_columns"
        problem = f"expected {len(header)} fields as the header has, found {len(fields)}"
    if not problem:
        if fields == header:
            # Files were joined; the names of the columns are nobody's text.
            yield place.reject(first.position, "repeated_header", "the row is the header again")
        else:
            yield _record(fields, place, header, taken)
        return
    is_above = _size(taken) > place.max_document_bytes or taken[-1].body is None
    if is_above and not _are_mostly_rows(taken[1:], len(header), delimiter):
        _skip_quoted(lines, len(header), delimiter)
        yield place.oversized(first.position, "the row has more bytes")
        return
    lines.give_back(taken[1:])
    yield place.reject(first.position, reason, problem)


def _record(fields: Fields, place: Place, header: Fields, taken: list[_Line]) -> Record | Reject:
    position = taken[0].position
    for line in taken:
        if b"\0" in (line.body or b""):
            return place.reject(position, "nul_bytes", f"a NUL in line {line.position}")
    try:
        "".join(fields).encode()
    except UnicodeEncodeError as error:
        detail = f"character {error.start} of the row's fields is no UTF-8"
        return place.reject(position, "bad_utf8", detail)
    return record_of(dict(zip(header, fields, strict=True)), place, position)


def _quoted(
    first: _Line, lines: _Lines, limit: int, delimiter: str, width: int | None = None
) -> tuple[Fields, str, list[_Line]]:
    """Fields of a row that may span lines, what is wrong with it, and the lines that it took.

    No more of them than it takes to have more than ``width`` fields.
    """
    taken = [first]

    def pull() -> Iterator[str]:
        size = len(first.body or b"")
        text = _text(first.body)
        num_fields = 1
        yield text
        for line in lines:
            # It would be looked at again for each row that begins within the one before.
            num_fields += _num_delimiters(text, delimiter, in_quotes=len(taken) > 1)
            if width is not None and num_fields > width:
                lines.give_back([line])
                return
            taken.append(line)
            size += len(line.body or b"") + 1
            if line.body is None or size > limit:
                return
            text = _text(line.body)
            yield text

    try:
        return next(csv.reader(pull(), delimiter=delimiter, strict=True)), "", taken
    except csv.Error as error:
        return [], str(error), taken


def _num_delimiters(text: str, delimiter: str, *, in_quotes: bool) -> int:
    """How many of a line are between fields; 0 for a line that is wrong."""
    if '"' not in text and in_quotes:
        return 0
    try:
        return len(next(csv.reader([f'"{text}' if in_quotes else text], delimiter=delimiter))) - 1
    except csv.Error:
        return 0


def _are_mostly_rows(lines: list[_Line], width: int, delimiter: str) -> bool:
    """Whether a stray quote has taken rows for a part of its own."""
    whole = [line.body for line in lines if line.body is not None]
    splits = (_text(body).split(delimiter) for body in whole)
    return sum(len(fields) == width for fields in splits) * 2 > len(whole)


def _skip_quoted(lines: _Lines, width: int, delimiter: str) -> None:
    """Pass over the rest of a field that is too large, to the line that closes its quote.

    Where none does, the rows that the file ends with are rows; so are many in a row.
    """
    rows: list[_Line] = []
    for line in lines:
        if line.body is not None and line.body.count(b'"') % 2:
            return
        if width > 1 and _is_row(line, width, delimiter):
            rows.append(line)
        else:
            rows.clear()
        if len(rows) == _SURELY_ROWS:
            break
    lines.give_back(rows)


def _is_row(line: _Line, width: int, delimiter: str) -> bool:
    try:
        fields = next(csv.reader([_text(line.body)], delimiter=delimiter, strict=True), [])
    except csv.Error:
        return False
    return len(fields) == width


def _header(first: _Line, lines: _Lines, place: Place, delimiters: str) -> tuple[Fields, str]:
    """The names of the columns, also where a line ends inside of one, and what is between them."""
    first = first._replace(body=(first.body or b"").removeprefix(BOM))
    found: list[tuple[Fields, str]] = []
    for delimiter in delimiters:
        fields, problem, taken = _quoted(first, lines, place.max_document_bytes, delimiter)
        if not problem and not _wrong_column(fields, place):
            return fields, delimiter
        lines.give_back(taken[1:])
        if not problem:
            found.append((fields, delimiter))
    return found[0] if found else ([], delimiters[0])


def _wrong_column(header: Fields, place: Place) -> str:
    for name in place.fields.named:
        if header.count(name) != 1:
            found = ", ".join(map(repr, header[:8])) or "no header that can be read"
            return f"expected one column {name!r}, found columns {found}"
    return ""


def _size(lines: list[_Line]) -> int:
    return sum(len(line.body or b"") + 1 for line in lines) - 1


def _text(body: bytes | None) -> str:
    # What is no UTF-8 passes through as lone surrogates, so that only its own row is rejected.
    text = (body or b"").decode(errors="surrogateescape")
    return text if text.endswith(("\r", "\n")) else f"{text}\n"
