"""Parquet files, and the files and streams of Arrow's own format: one row a document.

Memory is bounded by the row groups or record batches of the file.
"""

from collections.abc import Iterator, Mapping
from typing import IO, TYPE_CHECKING, Any

from tasks.documents import Reject
from tasks.readers import Place, Record, record_of

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS_AT_ONCE = 256
_ARROW_FILE, _ARROW_FILE_HEAD_BYTES = b"ARROW1", 8
_OLD_FEATHER = b"FEA1"
_MOST_FALSE_STARTS = 100
"""In a row, after which the rest of a stream is given up."""
_MOST_ROWS = 1 << 31


def read_parquet(file: IO[bytes], place: Place) -> Iterator[Record | Reject]:
    """Only the columns that are named in the fields are read.

    A damaged row group is one reject at its first row that could not be read; the others are read.
    """
    import pyarrow.parquet as pq  # noqa: PLC0415

    position = 0
    try:
        parquet = pq.ParquetFile(file, page_checksum_verification=True)
        if problem := _wrong_column(parquet.schema_arrow, place):
            yield place.reject(0, "wrong_column", problem)
            return
        groups = [
            parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)
        ]
        # An altered footer can make pyarrow end early without an error.
        if sum(groups) != parquet.metadata.num_rows:
            detail = f"the footer promises {parquet.metadata.num_rows} rows, its row groups "
            yield place.reject(1, "damaged_file", f"{detail}{sum(groups)}")
            return
    except _errors() as error:
        yield place.reject(0, "damaged_file", str(error))
        return
    for group, num_rows in enumerate(groups):
        end = position + num_rows
        try:
            for batch in parquet.iter_batches(
                _ROWS_AT_ONCE, row_groups=[group], columns=list(place.fields.named)
            ):
                for row in _rows(batch, place):
                    position += 1
                    yield _parse_row(row, place, position)
            problem = "" if position == end else f"row group {group} ends early"
        except _errors() as error:
            problem = str(error)
        if problem:
            lost = f"{end - position} rows of row group {group} cannot be read"
            yield place.reject(position + 1, "damaged_file", f"{lost}: {problem}")
        position = end


def read_arrow(file: IO[bytes], place: Place) -> Iterator[Record | Reject]:
    """A file (Feather too) or a stream of record batches, told apart by its first bytes.

    A damaged batch is one reject at its first row; the others are read. How many rows it had is not
    known where it cannot even be opened: they count as one then. The format has no checksums:
    altered letters of a text are not noticed.
    """
    position = 0
    try:
        head = file.read(len(_ARROW_FILE))
        file.seek(0)
        if not head:
            yield place.reject(0, "empty_file", "the file has no bytes")
            return
        if head.startswith(_OLD_FEATHER):
            detail = "expected Arrow or Feather version 2, found Feather version 1; write it anew"
            yield place.reject(0, "damaged_file", detail)
            return
        wrong, batches = _open_arrow(file, head == _ARROW_FILE, place)
    except _errors() as error:
        yield place.reject(0, "damaged_file", str(error))
        return
    if wrong:
        yield place.reject(0, "wrong_column", wrong)
        return
    for batch in batches:
        rows, num_rows, problem = _rows_of(batch, place)
        for row in rows:
            position += 1
            yield _parse_row(row, place, position)
        if problem:
            yield place.reject(position + 1, "damaged_file", problem)
            position += num_rows


def _errors() -> tuple[type[Exception], ...]:
    """What pyarrow makes of damage.

    A damaged length can ask for any amount of memory, and a damaged name be no text.
    """
    import pyarrow as pa  # noqa: PLC0415  only tables need it

    return pa.ArrowException, OSError, UnicodeDecodeError, MemoryError


def _rows_of(batch: Any, place: Place) -> tuple[Iterator[dict[str, Any]], int, str]:
    """Rows of a batch, or as how many lost ones it counts and why."""
    problem = batch
    num_lost = 1
    if not isinstance(batch, str):
        try:
            return _rows(batch, place), 0, ""
        except _errors() as error:
            # The number may be the damage.
            num_lost = batch.num_rows if 0 < batch.num_rows <= _MOST_ROWS else 1
            problem = str(error)
    return iter(()), num_lost, f"a record batch cannot be read: {problem}"


def _open_arrow(
    file: IO[bytes], is_file: bool, place: Place
) -> tuple[str, Iterator["pa.RecordBatch | str"]]:
    """What is wrong with the columns, and the batches; for one that cannot be read the reason.

    A file is a stream between its first bytes and a table of contents at its end. Of one that was
    cut off before that the batches are there all the same.
    """
    import pyarrow as pa  # noqa: PLC0415  only tables need it

    problem = ""
    if is_file:
        try:
            schema = pa.ipc.open_file(file).schema
        except (pa.ArrowException, OSError) as error:
            problem = str(error)
            file.seek(_ARROW_FILE_HEAD_BYTES)
        else:
            wrong = _wrong_column(schema, place)
            # Damage to the other columns costs nothing.
            names = [] if wrong else place.fields.named
            columns = [schema.get_field_index(name) for name in names]
            options = pa.ipc.IpcReadOptions(included_fields=columns)
            return wrong, _of_file(pa.ipc.open_file(file, options=options))
    stream = pa.ipc.open_stream(file)
    return _wrong_column(stream.schema, place), _of_stream(stream, file, problem)


def _of_file(reader: Any) -> Iterator["pa.RecordBatch | str"]:
    """Each is found by the table of contents, whatever became of the others."""
    for number in range(reader.num_record_batches):
        try:
            batch = reader.get_batch(number)
        except _errors() as error:
            batch = str(error)
        yield batch


def _of_stream(stream: Any, file: IO[bytes], problem: str) -> Iterator["pa.RecordBatch | str"]:
    """Where one ends is told at its begin; what is damaged at once again is not told twice.

    ``problem`` is why it is read as one though it is none, told where nothing else is wrong.
    """
    num_lost = 0
    is_told = False
    while num_lost <= _MOST_FALSE_STARTS:
        try:
            batch = stream.read_next_batch()
        except StopIteration:
            break
        except _errors() as error:
            if not num_lost:
                yield str(error)
            num_lost += 1
            is_told = True
            continue
        num_lost = 0
        yield batch
    if not problem and not num_lost and file.read(1):
        problem = f"the stream ends at byte {file.tell() - 1:,} and more follows"
    if problem and not is_told:
        yield problem


def _rows(batch: Any, place: Place) -> Iterator[dict[str, Any]]:
    """A dict a row of the columns that are named; all values UTF-8, not yet checked."""
    names = place.fields.named
    values = [_column_values(batch.column(name)) for name in names]
    return (dict(zip(names, row, strict=True)) for row in zip(*values, strict=True))


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
    return record_of(values, place, position)


def _wrong_column(schema: Any, place: Place) -> str:
    """What is wrong with a table's columns, or "" when it can be read."""
    from pyarrow import types  # noqa: PLC0415  only tables need it

    for name in place.fields.named:
        if schema.names.count(name) != 1:
            found = ", ".join(map(repr, schema.names[:8]))
            return f"expected one column {name!r}, found columns {found}"
        kind = schema.field(name).type
        if types.is_dictionary(kind):
            kind = kind.value_type
        is_scalar = types.is_integer(kind) or types.is_timestamp(kind) or types.is_date(kind)
        numbers = (place.fields.language_probability, place.fields.time)
        is_number = types.is_floating(kind) and name in numbers
        # What has no value in any row of a file has no type in it.
        is_other = is_scalar or is_number or types.is_null(kind)
        if not _is_string(kind) and (name == place.fields.text or not is_other):
            return f"expected strings in column {name!r}, found {kind}"
    return ""


def _is_string(kind: Any) -> bool:
    """Also bytes: many writers say no more of their strings, and every row is checked."""
    from pyarrow import types  # noqa: PLC0415  only tables need it

    is_bytes = types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)
    is_text = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    return is_bytes or is_text


def _column_values(column: Any) -> list[bytes | None]:
    """UTF-8 of every row, not yet checked: pyarrow would raise for a whole batch at one bad row.

    Raises ArrowInvalid for offsets and indices that lie outside of the column's bytes.
    """
    import pyarrow as pa  # noqa: PLC0415  only tables need it

    if pa.types.is_dictionary(column.type):
        values = _as_binary(column.dictionary)
        column = pa.DictionaryArray.from_arrays(column.indices, values, safe=True)
        return column.dictionary_decode().to_pylist()
    return _as_binary(column).to_pylist()


def _as_binary(column: Any) -> Any:
    import pyarrow as pa  # noqa: PLC0415  only tables need it

    if not _is_string(column.type):
        column.validate(full=True)
        column = _as_string(column)
    wide = {pa.large_string(): pa.large_binary(), pa.string_view(): pa.binary_view()}
    if column.type in (pa.string(), *wide):
        # The bytes stay where they are, so that nothing was looked at before validate.
        column = column.cast(wide.get(column.type, pa.binary()))
    column.validate(full=True)
    return column


def _as_string(column: Any) -> Any:
    import pyarrow as pa  # noqa: PLC0415  only tables need it

    try:
        return column.cast(pa.string())
    except pa.ArrowInvalid:
        if not pa.types.is_timestamp(column.type) or column.type.tz is None:
            raise
        # A time zone that this machine does not know; inside, all are in UTC.
        return column.cast(pa.timestamp(column.type.unit)).cast(pa.string())
