import bz2
import gzip
import io
import json
from datetime import date, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st

from tasks.documents import Reject
from tasks.line_stream import Compression
from tasks.readers import FieldNames, Place, Record, read_text
from tasks.reading.columns import read_parquet
from tasks.reading.jsonl import read_jsonl
from tests.support.bad_files import filled_lines

GOOD = b'{"text": "a good line"}'
ALL_FIELDS = FieldNames(id="id", time="time", cluster="cluster", licence="licence")


def place(fields: FieldNames | None = None, max_document_bytes: int = 1000) -> Place:
    return Place(
        uri="/data/file",
        fields=fields or FieldNames(),
        max_document_bytes=max_document_bytes,
    )


def jsonl(body: bytes, where: Place | None = None, compression: Compression = "") -> list[Any]:
    return list(read_jsonl(io.BytesIO(body), where or place(), compression))


def parquet(table: pa.Table, where: Place | None = None) -> list[Any]:
    file = io.BytesIO()
    pq.write_table(table, file, row_group_size=2)
    file.seek(0)
    return list(read_parquet(file, where or place()))


def summary(items: list[Record | Reject]) -> list[tuple[int, str]]:
    """Position and text or reason of every item."""
    return [
        (item.position, item.text if isinstance(item, Record) else item.reason) for item in items
    ]


BAD_LINES = {
    "malformed": (b'{"text": "cut in the mid', "malformed_json"),
    "raw zeros": (bytes(40), "malformed_json"),
    "raw control character": (b'{"text": "bell \x07"}', "malformed_json"),
    "list": (b'["text"]', "not_an_object"),
    "string": (b'"text"', "not_an_object"),
    "latin 1": ('{"text": "caf\u00e9"}'.encode("latin-1"), "bad_utf8"),
    "utf 16": ('{"text": "wide"}'.encode("utf-16"), "bad_utf8"),
    "other field": (b'{"body": "x"}', "missing_text"),
    "null": (b'{"text": null}', "missing_text"),
    "number": (b'{"text": 7}', "text_not_string"),
    "list of strings": (b'{"text": ["x"]}', "text_not_string"),
    "empty": (b'{"text": ""}', "empty"),
    "blank": (b'{"text": " \\n\\u3000"}', "empty"),
    "oversized": (b'{"text": "' + b"x" * 10_000 + b'"}', "oversized"),
    "too deep": (b"[" * 9000, "too_deep"),
    "lone surrogate": (b'{"text": "half \\ud83d"}', "lone_surrogate"),
}


@pytest.mark.parametrize("kind", BAD_LINES)
def test_a_bad_line_is_quarantined_and_its_neighbours_are_kept(kind: str) -> None:
    line, reason = BAD_LINES[kind]
    items = jsonl(b"\n".join([GOOD, line, GOOD]), place(max_document_bytes=9000))

    assert summary(items) == [(1, "a good line"), (2, reason), (3, "a good line")]
    assert items[1].uri == "/data/file"
    assert items[1].detail


def test_a_surrogate_pair_is_one_character() -> None:
    assert summary(jsonl(b'{"text": "\\ud83d\\ude00"}')) == [(1, "\U0001f600")]


def test_line_ends_and_byte_order_mark_are_no_part_of_a_document() -> None:
    body = b"\xef\xbb\xbf" + GOOD + b"\r\n\r\n" + GOOD + b"\r\n \n\n" + GOOD
    assert summary(jsonl(body)) == [(1, "a good line"), (3, "a good line"), (6, "a good line")]


@pytest.mark.parametrize("compression", ["gz", "zst", "bz2"])
def test_a_truncated_file_gives_the_lines_before_the_damage(compression: Compression) -> None:
    # Text that does not compress, so that half of the bytes hold about half of the lines.
    lines = [json.dumps({"text": f"{number} {hash(number) ** 9}"}) for number in range(20_000)]
    body = "\n".join(lines).encode()
    compress = {"gz": gzip.compress, "zst": zstandard.compress, "bz2": bz2.compress}[compression]
    # A block of bzip2 is all or nothing.
    packed = compress(body, 1)

    *good, last = jsonl(packed[: len(packed) // 2], compression=compression)

    assert len(good) > 3000
    assert [json.dumps({"text": item.text}) for item in good] == lines[: len(good)]
    assert (last.position, last.reason) == (len(good) + 1, "truncated_file")


@pytest.mark.parametrize("compression", ["gz", "zst", "bz2"])
def test_a_file_that_only_claims_to_be_compressed_is_one_reject(compression: Compression) -> None:
    assert summary(jsonl(GOOD, compression=compression)) == [(1, "damaged_file")]


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999", "9" * 400, "-" + "9" * 5000])
def test_a_number_that_few_parsers_read_costs_no_document(number: str) -> None:
    line = b'{"text": "x", "score": %s}' % number.encode()
    assert summary(jsonl(line, place(max_document_bytes=9000))) == [(1, "x")]


def test_an_integer_of_any_size_is_an_id() -> None:
    [record] = jsonl(b'{"text": "x", "id": 123456789012345678901234}', place(FieldNames(id="id")))
    assert record.id == "123456789012345678901234"


def test_all_fields_are_read_and_numbers_become_strings() -> None:
    line = b'{"text": "x", "id": 7, "time": 2024, "cluster": "site", "licence": "CC0-1.0"}'
    assert jsonl(line, place(ALL_FIELDS)) == [
        Record(position=1, text="x", id="7", time="2024", cluster="site", licence="CC0-1.0")
    ]


@pytest.mark.parametrize(
    ("time", "expected"), [("1700000000.25", "1700000000.25"), ("NaN", ""), ("1e999", "")]
)
def test_seconds_with_a_fraction_are_a_time_and_what_is_no_number_is_none(
    time: str, expected: str
) -> None:
    [record] = jsonl(b'{"text": "x", "t": %s}' % time.encode(), place(FieldNames(time="t")))
    assert record.time == expected


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"text": "x", "cluster": "c"}, "missing_id"),
        ({"text": "x", "id": "", "cluster": "c"}, "missing_id"),
        ({"text": "x", "id": "1"}, "missing_cluster"),
        ({"text": "x", "id": True, "cluster": "c"}, "id_not_string"),
        ({"text": "x", "id": "1", "cluster": ["c"]}, "cluster_not_string"),
        ({"text": "x", "id": "1", "cluster": "c", "time": [1.5]}, "time_not_string"),
        ({"text": "x", "id": 1.5, "cluster": "c"}, "id_not_string"),
        ({"text": "x", "id": "\ud800", "cluster": "c"}, "lone_surrogate"),
    ],
)
def test_a_promised_id_or_cluster_is_never_made_up(row: dict[str, Any], reason: str) -> None:
    items = jsonl(json.dumps(row).encode(), place(ALL_FIELDS))
    assert summary(items) == [(1, reason)]


@pytest.mark.parametrize(
    ("value", "expected"), [(0.5, 0.5), ("0.5", 0.5), (1, 1.0), (None, None), ("", None)]
)
def test_a_probability_is_a_number_or_its_text(value: Any, expected: float | None) -> None:
    fields = FieldNames(language_probability="p")
    [record] = jsonl(json.dumps({"text": "x", "p": value}).encode(), place(fields))
    assert record.language_probability == expected


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"p": 1.5}, "language_probability_not_valid"),
        ({"p": "high"}, "language_probability_not_valid"),
        ({"p": [1]}, "language_probability_not_valid"),
        ({"p": float("nan")}, "language_probability_not_valid"),
        ({"p": 10**400}, "language_probability_not_valid"),
        ({"made": "perhaps"}, "unknown_provenance"),
    ],
)
def test_a_probability_or_provenance_that_is_none_is_a_reject(
    row: dict[str, Any], reason: str
) -> None:
    fields = FieldNames(language_probability="p", provenance="made")
    assert summary(jsonl(json.dumps({"text": "x"} | row).encode(), place(fields))) == [(1, reason)]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"caf\xe9", "bad_utf8"),
        ("wide".encode("utf-16"), "bad_utf8"),
        (b"\x7fELF\0\0", "nul_bytes"),
        (b"", "empty_file"),
        (b"\xef\xbb\xbf \r\n", "empty_file"),
        (b"x" * 1001, "oversized"),
    ],
)
def test_a_file_that_is_no_text_is_one_reject(body: bytes, reason: str) -> None:
    assert summary(list(read_text(io.BytesIO(body), place()))) == [(0, reason)]


def test_a_text_file_is_one_document_without_its_byte_order_mark() -> None:
    body = b"\xef\xbb\xbfline\r\nline"
    assert summary(list(read_text(io.BytesIO(body), place()))) == [(0, "line\r\nline")]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary("int32", "string")])
def test_parquet_rows_are_counted_over_row_groups(kind: pa.DataType) -> None:
    texts = pa.array(["one", None, " ", "x" * 1001, "five"]).cast(kind)
    assert summary(parquet(pa.table({"text": texts, "other": [1.5] * 5}))) == [
        (1, "one"),
        (2, "missing_text"),
        (3, "empty"),
        (4, "oversized"),
        (5, "five"),
    ]


def test_one_row_of_bad_utf8_does_not_spoil_its_parquet_batch() -> None:
    binary = pa.array([b"one", b"caf\xe9", b"three"])
    texts = pa.Array.from_buffers(pa.string(), 3, binary.buffers())
    assert summary(parquet(pa.table({"text": texts}))) == [
        (1, "one"),
        (2, "bad_utf8"),
        (3, "three"),
    ]


def test_parquet_numbers_and_times_become_strings() -> None:
    table = pa.table(
        {
            "text": ["x", "y"],
            "id": [7, 8],
            "time": [datetime(2024, 5, 6, 7, 8, 9), None],
            "cluster": [date(2024, 5, 6), date(2024, 5, 7)],
            "licence": ["CC0-1.0", None],
        }
    )
    first, second = parquet(table, place(ALL_FIELDS))
    assert (first.id, first.cluster, first.licence) == ("7", "2024-05-06", "CC0-1.0")
    assert first.time.startswith("2024-05-06 07:08:09")
    assert (second.time, second.licence) == ("", "")


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        ({"body": ["x"]}, "found columns 'body'"),
        ({"text": [1]}, "found int64"),
        ({"text": [["x"]]}, "found list"),
    ],
)
def test_a_parquet_file_without_the_column_is_one_reject(
    columns: dict[str, Any], found: str
) -> None:
    [reject] = parquet(pa.table(columns))
    assert (reject.position, reject.reason) == (0, "wrong_column")
    assert found in reject.detail


def test_a_truncated_parquet_file_is_one_reject() -> None:
    file = io.BytesIO()
    pq.write_table(pa.table({"text": ["x"] * 100}), file)
    cut = io.BytesIO(file.getvalue()[:-20])
    assert summary(list(read_parquet(cut, place()))) == [(0, "damaged_file")]


@given(
    st.binary(max_size=200) | st.lists(st.sampled_from([GOOD, b"{", b"\xff", b" "])).map(b"\n".join)
)
@example(b"\n")
@example(b"\r\n\xef\xbb\xbf")
@example(b"\r{\r")
def test_any_bytes_give_one_item_for_every_line_that_is_not_blank(body: bytes) -> None:
    assert [item.position for item in jsonl(body)] == filled_lines(body)


@given(st.binary(max_size=200), st.sampled_from(["gz", "zst", "bz2"]))
def test_any_bytes_under_a_compressed_name_never_raise(
    body: bytes, compression: Compression
) -> None:
    assert all(isinstance(item, Reject) for item in jsonl(body, compression=compression)[-1:])


@given(st.binary(max_size=200))
def test_any_bytes_as_parquet_or_text_are_one_item(body: bytes) -> None:
    assert summary(list(read_parquet(io.BytesIO(body), place()))) == [(0, "damaged_file")]
    assert len(list(read_text(io.BytesIO(body), place()))) == 1


@pytest.mark.parametrize("flip", [1, 255])
def test_an_altered_byte_anywhere_in_a_parquet_file_is_noticed(flip: int) -> None:
    file = io.BytesIO()
    texts = [f"document {number}" for number in range(50)]
    # Without the copy of the schema that pyarrow adds and nothing needs.
    pq.write_table(pa.table({"text": texts}), file, write_page_checksum=True, store_schema=False)
    whole = file.getvalue()
    for where in range(len(whole)):
        body = bytearray(whole)
        body[where] ^= flip
        items = list(read_parquet(io.BytesIO(bytes(body)), place()))
        rejects = [item for item in items if isinstance(item, Reject)]
        assert rejects or [item.text for item in items if isinstance(item, Record)] == texts
