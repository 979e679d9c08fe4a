import bz2
import csv
import gzip
import io
import time
from collections.abc import Callable
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from tasks.documents import Reject
from tasks.line_stream import Compression
from tasks.readers import FieldNames, Place, Record
from tasks.reading.csv_rows import read_csv


def rows(
    body: bytes | str,
    *,
    fields: FieldNames | None = None,
    limit: int = 1000,
    compression: Compression = "",
    delimiters: str = ",;\t",
) -> list[Any]:
    body = body.encode() if isinstance(body, str) else body
    where = Place(uri="/data/a.csv", fields=fields or FieldNames(), max_document_bytes=limit)
    return list(read_csv(io.BytesIO(body), where, compression, delimiters))


def summary(items: list[Record | Reject]) -> list[tuple[int, str]]:
    return [
        (item.position, item.text if isinstance(item, Record) else item.reason) for item in items
    ]


@given(
    st.lists(
        st.tuples(
            st.text(min_size=1).map(lambda text: f"x{text}"),
            st.text(alphabet='ab",\n\r\t;', max_size=5),
        ),
        max_size=6,
    ),
    st.sampled_from([",", ";", "\t"]),
    st.sampled_from(["\r\n", "\n"]),
)
def test_what_the_csv_module_writes_comes_back(
    table: list[tuple[str, str]], delimiter: str, line_end: str
) -> None:
    table = [(text.replace("\0", ""), other) for text, other in table]
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=delimiter, lineterminator=line_end, quoting=csv.QUOTE_ALL)
    writer.writerows([("text", "n"), *table])
    items = rows(file.getvalue(), limit=10_000)
    assert [item.text for item in items] == [text for text, _ in table]


def test_fields_are_found_by_the_header_and_the_position_is_the_line_where_a_row_begins() -> None:
    body = '\ufeffid,text\r\n1,"two\r\nlines, and a ""quote"""\r\n\r\n2,plain 5" disk\r\n'
    first, second = rows(body, fields=FieldNames(id="id"))
    assert first == Record(position=2, text='two\r\nlines, and a "quote"', id="1")
    assert second == Record(position=5, text='plain 5" disk', id="2")


@pytest.mark.parametrize(
    ("name", "row", "rejects"),
    [
        ("too many fields", "1,a,b", [(3, "wrong_columns")]),
        ("too few fields", "1", [(3, "wrong_columns")]),
        ("no text", "1,", [(3, "empty")]),
        ("blank text", '1," \t"', [(3, "empty")]),
        ("letters after a quote", '1,"a"b', [(3, "malformed_csv")]),
        ("a quote that never closes", '1,"a', [(3, "malformed_csv")]),
        ("two rows with open quotes", '1,"a\n1,"b', [(3, "malformed_csv"), (4, "malformed_csv")]),
        ("an open quote that a later one closes", '",",a,b', [(3, "wrong_columns")]),
        ("a line above the limit", "1," + "x" * 5000, [(3, "oversized")]),
        ("a field above the limit", '1,"' + "some more words\n" * 300 + '"', [(3, "oversized")]),
        ("a NUL", "1,a\0b", [(3, "nul_bytes")]),
    ],
)
def test_a_bad_row_is_quarantined_and_its_neighbours_are_kept(
    name: str, row: str, rejects: list[tuple[int, str]]
) -> None:
    after = 4 + row.count("\n")
    items = rows(f"id,text\n0,before\n{row}\n2,after\n3,last\n")
    assert summary(items) == [(2, "before"), *rejects, (after, "after"), (after + 1, "last")]


def test_an_open_quote_takes_no_rows_however_many_follow() -> None:
    good = "".join(f"{number},row {number}\n" for number in range(3000))
    items = rows(f'id,text\n1,"open\n{good}', limit=1000)
    assert [item.reason for item in items if isinstance(item, Reject)] == ["malformed_csv"]
    assert len(items) == 3001


@pytest.mark.parametrize("num_rows", [1, 19, 20, 500])
def test_an_open_quote_before_a_text_above_the_limit_takes_no_rows(num_rows: int) -> None:
    good = "".join(f'{number},"row, {number}"\n' for number in range(num_rows))
    items = rows('id,text\n1,"open\n' + "some more words\n" * 300 + good, limit=1000)
    assert [item.reason for item in items if isinstance(item, Reject)] == ["oversized"]
    assert [item.position for item in items[1:]] == list(range(303, 303 + num_rows))


@pytest.mark.parametrize("line", ['a","', ',a","', 'a",,"', '"a', '"""', 'a","a'])
def test_rows_that_open_a_quote_within_the_one_before_take_no_time_for_it(line: str) -> None:
    start = time.process_time()
    items = rows("text,n\n" + f"{line}\n" * 20_000 + "good,1\n", limit=10_000_000)
    assert time.process_time() - start < 20
    assert items[-1].text == "good"


def test_bytes_that_are_no_utf8_cost_their_own_row_only() -> None:
    items = rows('id,text\n1,caf\u00e9\n2,"two\nlines"\n'.encode() + b'3,"caf\xe9\nlatin"\n4,x\n')
    assert summary(items) == [(2, "caf\u00e9"), (3, "two\nlines"), (5, "bad_utf8"), (7, "x")]


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("id,body\n1,x\n", "found columns 'id', 'body'"),
        ("text,text\n1,x\n", "found columns 'text', 'text'"),
        ('"id,text\n1,x\n', "no header that can be read"),
    ],
)
def test_a_table_without_the_column_is_one_reject(body: str, found: str) -> None:
    [reject] = rows(body)
    assert (reject.position, reject.reason) == (0, "wrong_column")
    assert found in reject.detail


def test_a_truncated_file_gives_the_rows_before_the_damage() -> None:
    body = "id,text\n" + "".join(f"{n},{n * 7919 % 100003} words\n" for n in range(60_000))
    *good, last = rows(bz2.compress(body.encode(), 1)[:-2000], compression="bz2")
    assert all(isinstance(item, Record) for item in good)
    assert (last.position, last.reason) == (len(good) + 2, "truncated_file")
    assert len(good) > 40_000


@pytest.mark.parametrize(
    ("pack", "compression"), [(gzip.compress, "gz"), (zstandard.compress, "zst")]
)
def test_rows_behind_a_damaged_part_of_a_packed_file_are_read(
    pack: Callable[[bytes], bytes], compression: Compression
) -> None:
    many = b"".join(b'%d,"one %d"\n' % (number, number * 7919) for number in range(99))
    parts = [pack(b"id,text\n0,zero\n"), pack(many), pack(b"2,two\n3,three\n")]
    damaged = parts[1][:9] + bytes(9) + parts[1][18:]
    items = rows(parts[0] + damaged + parts[2], compression=compression)
    texts = [item.text for item in items if isinstance(item, Record)]
    assert (texts[0], texts[-2:]) == ("zero", ["two", "three"])
    assert [item.reason for item in items if isinstance(item, Reject)] == ["damaged_file"]
    assert [item.position for item in items] == sorted({item.position for item in items})


def test_the_name_of_a_column_may_have_lines() -> None:
    assert summary(rows('id,"a long\nname",text\n1,x,one\n')) == [(3, "one")]
    # A sign for inches opens nothing, and an open quote takes no rows.
    assert summary(rows('5" disk,text\n1,one "a\n2,two\n')) == [(2, 'one "a'), (3, "two")]


@pytest.mark.parametrize("end", ["", "\r", "\n", "\r\n", "\n\n"])
def test_rows_that_end_with_cr_are_told_by_the_header_whatever_ends_the_file(end: str) -> None:
    body = 'id,text\r1,one\r2,"two\rlines"\r\r3,three'
    assert summary(rows(body + end)) == [(2, "one"), (3, "two\rlines"), (6, "three")]


def test_a_cr_within_a_row_is_a_part_of_it_where_the_header_ends_with_lf() -> None:
    body = 'id,text,"a\rb"\n1,o\rne,x\n2,"t\rw\r\no",x\r\n3,three,x\r'
    assert summary(rows(body)) == [(3, "o\rne"), (5, "t\rw\r\no"), (8, "three")]


def test_the_header_of_a_joined_file_is_no_document() -> None:
    one = "\ufeffid,text\n1,one\n"
    items = rows(one + one + "\ufeff2,two\n", fields=FieldNames(id="id"))
    assert summary(items) == [(2, "one"), (3, "repeated_header"), (4, "one"), (5, "two")]
    assert [item.id for item in items if isinstance(item, Record)] == ["1", "1", "2"]


def test_a_tab_goes_before_a_comma_where_the_name_says_so() -> None:
    assert summary(rows("text\none, two\n", delimiters="\t,;")) == [(2, "one, two")]


@given(st.binary(max_size=300) | st.text(alphabet='ab",\n\r').map(str.encode))
def test_any_bytes_are_rows_or_rejects_in_order(body: bytes) -> None:
    items = rows(b"text,n\n" + body)
    positions = [item.position for item in items]
    assert positions == sorted(set(positions))
