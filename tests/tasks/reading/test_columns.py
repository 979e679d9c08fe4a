import io
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.documents import Reject
from tasks.readers import FieldNames, Place, Record
from tasks.reading.columns import read_arrow, read_parquet


def place(fields: FieldNames | None = None) -> Place:
    return Place(uri="/data/a", fields=fields or FieldNames(), max_document_bytes=1000)


def summary(items: list[Record | Reject]) -> list[tuple[int, str]]:
    return [
        (item.position, item.text if isinstance(item, Record) else item.reason) for item in items
    ]


def as_file(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return sink.getvalue()


def as_stream(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return sink.getvalue()


def as_feather(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    feather.write_feather(table, sink, compression="zstd", chunksize=2)
    return sink.getvalue()


WRITERS = {"file": as_file, "stream": as_stream, "feather": as_feather}
BYTES = [pa.binary(), pa.large_binary(), pa.binary_view()]
KINDS = [
    *(pa.string(), pa.large_string(), pa.string_view(), pa.dictionary("int32", "string")),
    *BYTES,
]


def arrow(body: bytes, fields: FieldNames | None = None) -> list[Any]:
    return list(read_arrow(io.BytesIO(body), place(fields)))


@pytest.mark.parametrize("write", WRITERS.values(), ids=list(WRITERS))
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_arrow_rows_are_counted_over_batches(
    write: Callable[[pa.Table], bytes], kind: pa.DataType
) -> None:
    texts = ["one", None, " ", "x" * 1001, "five"]
    body = write(pa.table({"text": pa.array(texts, kind), "id": range(5), "other": [1.5] * 5}))
    items = arrow(body, FieldNames(id="id"))
    assert summary(items) == [
        (1, "one"),
        (2, "missing_text"),
        (3, "empty"),
        (4, "oversized"),
        (5, "five"),
    ]
    assert [item.id for item in items if isinstance(item, Record)] == ["0", "4"]


def test_one_row_of_bad_utf8_does_not_spoil_its_batch() -> None:
    binary = pa.array([b"one", b"caf\xe9", b"three"])
    texts = pa.Array.from_buffers(pa.string(), 3, binary.buffers())
    assert summary(arrow(as_file(pa.table({"text": texts})))) == [
        (1, "one"),
        (2, "bad_utf8"),
        (3, "three"),
    ]


@pytest.mark.parametrize("columns", [{"body": ["x"]}, {"text": [1]}, {"text": [["x"]]}])
def test_an_arrow_file_without_the_column_is_one_reject(columns: dict[str, Any]) -> None:
    assert summary(arrow(as_file(pa.table(columns)))) == [(0, "wrong_column")]


@pytest.mark.parametrize("kind", BYTES, ids=str)
def test_bytes_of_a_text_are_checked_row_by_row(kind: pa.DataType) -> None:
    table = pa.table({"text": pa.array([b"one", b"caf\xe9", "zwölf".encode()], kind)})
    expected = [(1, "one"), (2, "bad_utf8"), (3, "zwölf")]
    assert summary(arrow(as_file(table))) == expected
    sink = io.BytesIO()
    pq.write_table(table, sink)
    assert summary(list(read_parquet(sink, place()))) == expected


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (pa.nulls(2), ["", ""]),
        (pa.array([1_700_000_000.5, None]), ["1700000000.5", ""]),
        (
            pa.array([10**15, None], pa.timestamp("us", "Nowhere/Land")),
            ["2001-09-09 01:46:40.000000", ""],
        ),
    ],
)
def test_a_time_without_values_or_in_seconds_or_of_an_unknown_zone_costs_no_row(
    times: pa.Array, expected: list[str]
) -> None:
    fields = FieldNames(time="time")
    table = pa.table({"text": ["one", "two"], "time": times})
    assert [item.time for item in arrow(as_file(table), fields)] == expected
    sink = io.BytesIO()
    pq.write_table(table, sink)
    found = read_parquet(sink, place(fields))
    assert [item.time if isinstance(item, Record) else item for item in found] == expected


def test_a_feather_file_of_the_first_version_is_one_reject_that_says_so() -> None:
    [reject] = arrow(b"FEA1" + bytes(100))
    assert (reject.position, reject.reason) == (0, "damaged_file")
    assert "Feather version 1" in reject.detail


@pytest.mark.parametrize("write", WRITERS.values(), ids=list(WRITERS))
def test_a_truncated_stream_gives_the_batches_before_the_damage(
    write: Callable[[pa.Table], bytes],
) -> None:
    body = write(pa.table({"text": [f"text {n}" for n in range(10)]}))
    items = arrow(body[: len(body) * 3 // 4])
    assert [item.reason for item in items if isinstance(item, Reject)] == ["damaged_file"]
    assert len(items) > 3


@pytest.mark.parametrize("packing", [None, "zstd", "lz4"])
@pytest.mark.parametrize("write", [pa.ipc.new_file, pa.ipc.new_stream])
def test_a_damaged_record_batch_costs_no_other(write: Any, packing: str | None) -> None:
    texts = [f"text {n * 7919 % 1009} of {n}" for n in range(1000)]
    table = pa.table({"text": texts, "other": range(1000)})
    sink = io.BytesIO()
    ends: list[int] = []
    options = pa.ipc.IpcWriteOptions(compression=packing)
    with write(sink, table.schema, options=options) as writer:
        for batch in table.to_batches(max_chunksize=100):
            ends.append(sink.tell())
            writer.write_batch(batch)
    whole = sink.getvalue()
    for where in range(ends[4], ends[5], 8):
        body = bytearray(whole)
        body[where : where + 8] = b"\xee" * 8
        items = arrow(bytes(body))
        found = [item.text for item in items if isinstance(item, Record)]
        # Letters have no checksum; a stream is lost where it is not known where a batch ends.
        assert found[:400] == texts[:400]
        rejects = [item for item in items if isinstance(item, Reject)]
        assert len(rejects) <= 100
        assert all(401 <= item.position <= 500 for item in rejects if item.reason != "damaged_file")
        is_begin = where < ends[4] + 300
        if write is pa.ipc.new_file or not is_begin:
            assert found[-500:] == texts[500:]
            if len(rejects) == 1 and len(found) == 900:
                assert rejects[0].position == 401
        positions = [item.position for item in items]
        assert positions == sorted(set(positions))


def test_what_follows_the_end_of_a_stream_is_told() -> None:
    body = as_stream(pa.table({"text": ["one"]}))
    items = arrow(body + body)
    assert summary(items) == [(1, "one"), (2, "damaged_file")]
    assert "more follows" in items[1].detail


@given(st.binary(max_size=200), st.sampled_from([b"", b"ARROW1\0\0"]))
def test_any_bytes_as_arrow_are_one_reject(body: bytes, head: bytes) -> None:
    assert [type(item) for item in arrow(head + body)] == [Reject]


@pytest.mark.parametrize("write", WRITERS.values(), ids=list(WRITERS))
@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("flip", [1, 0x80, 255])
def test_an_altered_byte_anywhere_in_an_arrow_file_never_raises(
    write: Callable[[pa.Table], bytes], kind: pa.DataType, flip: int
) -> None:
    texts = pa.array(["a", "bc", "a text that is longer than twelve", "bc"], kind)
    whole = write(pa.table({"text": texts}))
    for where in range(len(whole)):
        body = bytearray(whole)
        body[where] ^= flip
        arrow(bytes(body))


def test_a_damaged_row_group_costs_no_other() -> None:
    sink = io.BytesIO()
    texts = [f"text {n * 7919 % 1009}" for n in range(400)]
    pq.write_table(
        pa.table({"text": texts}),
        sink,
        row_group_size=100,
        use_dictionary=False,
        write_page_checksum=True,
    )
    body = bytearray(sink.getvalue())
    column = pq.ParquetFile(sink).metadata.row_group(1).column(0)
    body[column.data_page_offset + column.total_compressed_size // 2] ^= 255

    items = list(read_parquet(io.BytesIO(bytes(body)), place()))

    assert [item.text for item in items if isinstance(item, Record)] == texts[:100] + texts[200:]
    [reject] = [item for item in items if isinstance(item, Reject)]
    assert (reject.position, reject.reason) == (101, "damaged_file")
    assert "100 rows of row group 1" in reject.detail
    assert items[-1].position == 400
