import io
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.documents import Reject
from tasks.readers import FieldNames, Place
from tasks.reading.jsonl import read_jsonl


def jsonl(body: bytes, limit: int) -> list[Any]:
    place = Place(uri="/data/file", fields=FieldNames(), max_document_bytes=limit)
    return list(read_jsonl(io.BytesIO(body), place, ""))


def summary(items: list[Any]) -> list[tuple[int, str]]:
    """Position and text or reason of every item."""
    return [
        (item.position, item.reason if isinstance(item, Reject) else item.text) for item in items
    ]


_PIECES = {
    b'{"text": "good"}': "good",
    b'{"text": NaN, "text": "good"}': "good",
    # Between the parts of an object a CR is white space.
    b'{"text":\r"good"}': "good",
    b'\r{"text":\r"good"\r}': "good",
    b'{"body":\r"good"}': "missing_text",
    b"{": "malformed_json",
    b'{"text": "caf\xe9"}': "bad_utf8",
    b"[1]": "not_an_object",
    b'{"text": "' + b"x" * 60 + b'"}': "oversized",
    b"": "",
    b" ": "",
}


@given(
    st.lists(st.tuples(st.sampled_from(list(_PIECES)), st.sampled_from([b"\n", b"\r\n", b"\r"]))),
    st.sampled_from([b"", b"\n", b"\n\n\n", b"\r", b"\r\n"]),
)
def test_each_line_is_one_item_whatever_ends_it(
    pieces: list[tuple[bytes, bytes]], last: bytes
) -> None:
    body, expected = b"", []
    for piece, end in pieces:
        # An object that goes over CRs is told by the LF behind it, and by the one before.
        over_crs = b"\r" in piece
        body += b"\n" * over_crs
        if _PIECES[piece]:
            first = len((body + b"\n" * piece.startswith(b"\r")).splitlines()) + 1
            expected.append((first, _PIECES[piece]))
        body += piece + (b"\n" if over_crs else end)
    assert summary(jsonl(body + last, 60)) == expected


@pytest.mark.parametrize("num_lfs", [0, 1, 3])
def test_a_file_of_crs_with_some_lf_at_its_end_gives_its_documents(num_lfs: int) -> None:
    # Above the largest document as a whole, and more than a chunk of what is read at once.
    body = b"".join(b'{"text": "good %d"}\r' % number for number in range(20_000))
    items = jsonl(body + b"\n" * num_lfs, 30)
    assert summary(items) == [(number + 1, f"good {number}") for number in range(20_000)]


def test_lines_of_crs_that_are_no_json_take_no_time_for_it() -> None:
    start = time.process_time()
    items = jsonl(b"{\r" * 200_000 + b"\n", 10_000_000)
    assert {item.reason for item in items} == {"malformed_json"}
    assert len(items) == 200_000
    assert time.process_time() - start < 20


def test_byte_order_marks_cost_no_line_however_often_files_were_joined() -> None:
    good = b'{"text": "good"}\n'
    mark = b"\xef\xbb\xbf"
    assert summary(jsonl(mark + good + mark + mark + good, 99)) == [(1, "good"), (2, "good")]
