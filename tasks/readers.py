"""One function a file format: an open file in, records and rejects out, in the order of the file.

Nothing in a file makes a reader raise: what cannot be read comes out as a Reject. Memory is bounded
by the largest document allowed (for Parquet by the file's row groups). Blank lines of JSONL hold
nothing and are not counted; every other line gives exactly one item.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any, ClassVar

from tasks.documents import Reject
from tasks.line_stream import Compression, DamagedStreamError, decompress, split_lines
from training.config import FORBID_UNKNOWN

_BOM = b"\xef\xbb\xbf"
_PARQUET_ROWS = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class FieldNames:
    """Fields of a JSONL object or columns of a Parquet file; "" means that the source has none."""

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

    def __post_init__(self) -> None:
        if not self.text:
            raise ValueError("fields.text is empty; name the field that holds the document's text")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What a reader found; "" where the file says nothing."""

    position: int
    text: str
    id: str = ""
    time: str = ""
    cluster: str = ""
    licence: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a reader is and what it may accept."""

    uri: str
    fields: FieldNames
    max_document_bytes: int

    def reject(self, position: int, reason: str, detail: str) -> Reject:
        """A Reject of this file."""
        return Reject(uri=self.uri, position=position, reason=reason, detail=detail)

    def oversized(self, position: int, found: str) -> Reject:
        """A Reject of a document above the limit."""
        return self.reject(
            position, "oversized", f"{found}, at most {self.max_document_bytes} are allowed"
        )


def read_text(file: IO[bytes], place: Place) -> Iterator[Record | Reject]:
    """The file as one document: strict UTF-8, a byte order mark removed."""
    try:
        body = file.read(place.max_document_bytes + 1)
    except OSError as error:
        yield place.reject(0, "unreadable", str(error))
        return
    if len(body) > place.max_document_bytes:
        yield place.oversized(0, "the file has more bytes")
        return
    try:
        text = body.removeprefix(_BOM).decode()
    except UnicodeDecodeError as error:
        yield place.reject(0, "bad_utf8", f"byte {error.start}: {error.reason}")
        return
    if "\0" in text:
        yield place.reject(0, "nul_bytes", f"NUL at character {text.index(chr(0))}: a binary file?")
    elif not text or text.isspace():
        yield place.reject(0, "empty", "the file has no text")
    else:
        yield Record(position=0, text=text)


def read_jsonl(
    file: IO[bytes], place: Place, compression: Compression
) -> Iterator[Record | Reject]:
    """One JSON object a line. A damaged compressed file gives the lines before the damage.

    The limit on a document's bytes counts the whole line, as it is written.
    """
    position = 0
    lines = split_lines(decompress(file, compression), place.max_document_bytes)
    try:
        for position, line in enumerate(lines, start=1):
            if line is None:
                yield place.oversized(position, "the line has more bytes")
            elif line and not line.isspace():
                yield _parse_line(line, place, position)
    except EOFError as error:
        yield place.reject(position + 1, "truncated_file", str(error))
    except DamagedStreamError as error:
        yield place.reject(position + 1, "damaged_file", str(error))
    except OSError as error:
        yield place.reject(position + 1, "unreadable", str(error))


def read_parquet(file: IO[bytes], place: Place) -> Iterator[Record | Reject]:
    """One row a document; only the columns that are named in the fields are read."""
    import pyarrow as pa  # noqa: PLC0415  only Parquet sources need it
    import pyarrow.parquet as pq  # noqa: PLC0415

    position = 0
    try:
        parquet = pq.ParquetFile(file, page_checksum_verification=True)
        columns = _columns(place.fields)
        problem = _wrong_column(parquet.schema_arrow, place.fields.text, columns)
        if problem:
            yield place.reject(0, "wrong_column", problem)
            return
        for batch in parquet.iter_batches(_PARQUET_ROWS, columns=columns):
            values = [_column_values(batch.column(name)) for name in columns]
            for row in zip(*values, strict=True):
                position += 1
                yield _parse_row(dict(zip(columns, row, strict=True)), place, position)
        # An altered footer can make pyarrow end early without an error.
        if position != parquet.metadata.num_rows:
            detail = f"the footer promises {parquet.metadata.num_rows} rows, found {position}"
            yield place.reject(position + 1, "damaged_file", detail)
    # UnicodeDecodeError: a damaged column name.
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        where = position + 1 if position else 0
        yield place.reject(where, "damaged_file", str(error))


def _parse_line(line: bytes, place: Place, position: int) -> Record | Reject:
    if position == 1:
        line = line.removeprefix(_BOM)
    try:
        value: object = json.loads(line.decode())
    except UnicodeDecodeError as error:
        return place.reject(position, "bad_utf8", f"byte {error.start}: {error.reason}")
    except ValueError as error:
        return place.reject(position, "malformed_json", str(error))
    except RecursionError:
        return place.reject(position, "too_deep", "objects or lists are nested too deeply")
    if not isinstance(value, dict):
        found = type(value).__name__
        return place.reject(position, "not_an_object", f"expected an object a line, found {found}")
    return _record(value, place, position)


def _parse_row(row: Mapping[str, object], place: Place, position: int) -> Record | Reject:
    text = row[place.fields.text]
    if isinstance(text, bytes) and len(text) > place.max_document_bytes:
        return place.oversized(position, f"the text has {len(text)} bytes")
    values: dict[str, object] = {}
    for name, value in row.items():
        try:
            values[name] = value.decode() if isinstance(value, bytes) else value
        except UnicodeDecodeError as error:
            detail = f"column {name!r}, byte {error.start}: {error.reason}"
            return place.reject(position, "bad_utf8", detail)
    return _record(values, place, position)


def _record(values: Mapping[str, object], place: Place, position: int) -> Record | Reject:
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
    attributes: dict[str, str] = {}
    for kind in ("id", "time", "cluster", "licence"):
        name: str = getattr(fields, kind)
        if not name:
            continue
        value = values.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if value is not None and not isinstance(value, str):
            found = type(value).__name__
            return place.reject(position, f"{kind}_not_string", f"{name!r} holds a {found}")
        # An id or cluster that was promised cannot be made up: the holdout would leak.
        if not value and kind in ("id", "cluster"):
            return place.reject(position, f"missing_{kind}", f"no {kind} in {name!r}")
        attributes[kind] = value or ""
    try:
        for string in (text, *attributes.values()):
            string.encode()
    except UnicodeEncodeError as error:
        detail = f"half a surrogate pair at character {error.start}"
        return place.reject(position, "lone_surrogate", detail)
    return Record(position=position, text=text, **attributes)


def _columns(fields: FieldNames) -> list[str]:
    names = (fields.text, fields.id, fields.time, fields.cluster, fields.licence)
    return list(dict.fromkeys(name for name in names if name))


def _wrong_column(schema: Any, text: str, columns: list[str]) -> str:
    """What is wrong with a Parquet file's columns, or "" when it can be read."""
    from pyarrow import types  # noqa: PLC0415  only Parquet sources need it

    for name in columns:
        if schema.names.count(name) != 1:
            found = ", ".join(map(repr, schema.names[:8]))
            return f"expected one column {name!r}, found columns {found}"
        kind = schema.field(name).type
        if types.is_dictionary(kind):
            kind = kind.value_type
        is_string = types.is_string(kind) or types.is_large_string(kind)
        is_scalar = types.is_integer(kind) or types.is_timestamp(kind) or types.is_date(kind)
        if not is_string and (name == text or not is_scalar):
            return f"expected strings in column {name!r}, found {kind}"
    return ""


def _column_values(column: Any) -> list[bytes | None]:
    """UTF-8 of every row, not yet checked: pyarrow would raise for a whole batch at one bad row."""
    import pyarrow as pa  # noqa: PLC0415  only Parquet sources need it

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        column = column.cast(pa.string())
    large = pa.types.is_large_string(column.type)
    return column.cast(pa.large_binary() if large else pa.binary()).to_pylist()
