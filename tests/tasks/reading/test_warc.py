import bz2
import contextlib
import gzip
import io
import re
import struct
import zlib
from typing import Any

import brotli
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.documents import Reject
from tasks.line_stream import Compression
from tasks.readers import FieldNames, Place, Record
from tasks.reading.http_answer import read_answer
from tasks.reading.warc import read_warc
from tests.support.web import (
    DATE,
    answer,
    conversion,
    html,
    info,
    repacked,
    sentences,
    unpacked,
    with_text,
)

PAGES = ["otters", "glaciers", "violins", "harbours"]
ARCHIVE = [info(), *map(answer, PAGES)]


def read(body: bytes, compression: Compression = "gz", limit: int = 100_000) -> list[Any]:
    place = Place(uri="/data/a.warc.gz", fields=FieldNames(), max_document_bytes=limit)
    return [with_text(item) for item in read_warc(io.BytesIO(body), place, compression)]


def topics(items: list[Record | Reject]) -> list[tuple[int, str]]:
    """Position and page or reason of every item."""
    return [
        (item.position, item.text.split()[1] if isinstance(item, Record) else item.reason)
        for item in items
    ]


GOOD = list(enumerate(PAGES, start=2))


@pytest.mark.parametrize("compression", ["gz", ""])
def test_pages_come_in_the_order_of_the_file_with_the_number_of_their_record(
    compression: Compression,
) -> None:
    body = b"".join(ARCHIVE)
    items = read(body if compression else unpacked(body), compression)
    assert topics(items) == GOOD
    assert items[0] == Record(
        position=2,
        text=f"About otters\n{sentences('otters')}",
        time=DATE,
        address="https://www.otters.example/page",
        language="en",
    )


def test_an_archive_that_is_packed_as_a_whole_is_read_too() -> None:
    assert topics(read(gzip.compress(unpacked(b"".join(ARCHIVE))))) == GOOD


@pytest.mark.parametrize("with_dictionary", [False, True])
def test_records_that_are_frames_of_zstandard_are_read_and_damage_costs_one(
    with_dictionary: bool,
) -> None:
    trained = zstandard.train_dictionary(4000, [unpacked(answer(f"topic{n}")) for n in range(60)])
    dictionary = trained.as_bytes() if with_dictionary else b""
    head = struct.pack("<II", 0x184D2A5D, len(dictionary)) + dictionary if dictionary else b""
    frames = [repacked(each, dictionary) for each in ARCHIVE]
    assert topics(read(head + b"".join(frames), "zst")) == GOOD
    damaged = bytearray(frames[2])
    damaged[:8] = bytes(8)
    body = head + b"".join([*frames[:2], bytes(damaged), *frames[3:]])
    assert topics(read(body, "zst")) == [GOOD[0], (3, "damaged_record"), *GOOD[2:]]


def test_records_that_are_streams_of_bzip2_are_read_and_damage_costs_one() -> None:
    packed = [bz2.compress(unpacked(record)) for record in ARCHIVE]
    damaged = bytearray(packed[2])
    damaged[len(damaged) // 2] ^= 0x55
    items = read(b"".join([*packed[:2], damaged, *packed[3:]]), "bz2")
    assert topics(items) == [GOOD[0], (3, "damaged_record"), *GOOD[2:]]


def test_an_archive_that_unpacks_to_too_much_is_stopped() -> None:
    place = Place(
        uri="a.warc.gz", fields=FieldNames(), max_document_bytes=10**6, max_unpacked_bytes=3000
    )
    items = [with_text(item) for item in read_warc(io.BytesIO(b"".join(ARCHIVE)), place, "gz")]
    assert topics(items)[:1] == GOOD[:1]
    assert topics(items)[-1][1] == "expansion"
    assert len(items) < 1 + len(GOOD)


def test_a_wet_file_holds_texts_with_their_language() -> None:
    items = read(
        conversion(b"One text.\n") + conversion(b"\xff") + conversion("Zw\u00f6lf".encode())
    )
    assert items[0] == Record(
        position=1, text="One text.\n", time=DATE, address="https://wet.example/", language="eng"
    )
    assert items[1].reason == "bad_utf8"
    assert items[2].text == "Zw\u00f6lf"


def test_what_a_record_does_not_say_is_guessed_and_without_a_kind_it_is_damaged() -> None:
    record = unpacked(conversion(b"one"))
    kind = re.compile(rb"WARC-Type: [^\r]*\r\n")
    media = re.compile(rb"Content-Type: (text/plain|application/http)[^\r]*\r\n")
    page = media.sub(b"", unpacked(ARCHIVE[1]), count=1)
    items = read(media.sub(b"", record) + kind.sub(b"", record) + page + record, "")
    texts = [item.text.split()[-1] for item in items if isinstance(item, Record)]
    assert (texts[0], len(texts), texts[2]) == ("one", 3, "one")
    [reject] = [item for item in items if isinstance(item, Reject)]
    assert (reject.position, reject.reason) == (2, "damaged_record")
    assert "WARC-Type" in reject.detail


def test_what_is_no_page_is_passed_over() -> None:
    others = [
        answer("a", status="404 Not Found"),
        answer("b", status="301 Moved", body=b""),
        answer("c", content_type="image/png", body=b"\x89PNG"),
        info(),
    ]
    assert topics(read(b"".join([*others, answer("otters")]))) == [(5, "otters")]


@pytest.mark.parametrize(
    ("fields", "pack"),
    [
        ([("Content-Encoding", "gzip")], gzip.compress),
        (
            [("Transfer-Encoding", "chunked")],
            lambda body: b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body),
        ),
        ([("Content-Encoding", "br")], brotli.compress),
        ([("Content-Encoding", "zstd")], zstandard.compress),
        ([("Content-Encoding", "deflate")], zlib.compress),
        ([("Content-Encoding", "deflate")], lambda body: zlib.compress(body)[2:-4]),
        ([("Content-Encoding", "gzip, br")], lambda body: brotli.compress(gzip.compress(body))),
        # As some servers do, who say so of what they did not pack.
        *[([("Content-Encoding", name)], bytes) for name in ("gzip", "deflate", "br", "zstd")],
    ],
)
def test_a_page_is_unpacked_as_it_was_served(fields: Any, pack: Any) -> None:
    record = answer("otters", body=pack(html("otters").encode()), fields=fields)
    assert topics(read(record)) == [(1, "otters")]


def test_a_page_is_decoded_as_its_server_says() -> None:
    page = html("caf\u00e9-life").encode("latin-1")
    [record] = read(answer("x", content_type="text/html; charset=ISO-8859-1", body=page))
    assert record.text.startswith("About caf\u00e9-life")
    assert topics(read(answer("x", body=page))) == [(1, "bad_encoding")]


@pytest.mark.parametrize("which", [1, 2, 4])
@pytest.mark.parametrize("where", [2, 12, 40, 200])
def test_a_damaged_member_costs_its_record_only(which: int, where: int) -> None:
    records = [bytearray(record) for record in ARCHIVE]
    records[which][where] ^= 0xFF
    items = read(b"".join(records))
    expected = [page for page in PAGES if page != PAGES[which - 1]]
    assert [topic for _, topic in topics(items) if topic in PAGES] == expected
    rejects = [item for item in items if isinstance(item, Reject)]
    assert [(item.position, item.reason) for item in rejects] == [(which + 1, "damaged_record")]


def test_an_altered_check_sum_is_told_and_the_record_is_believed_by_its_own() -> None:
    records = [bytearray(record) for record in ARCHIVE]
    records[2][-6] ^= 0xFF
    assert [topic for _, topic in topics(read(b"".join(records)))] == [
        "otters",
        "glaciers",
        "damaged_record",
        "violins",
        "harbours",
    ]


@pytest.mark.parametrize("body", [b"WARC/1" * 20_000, b"WARC/1.0\r\n" * 9, b"WARC/1.0\r\na: b"])
def test_what_only_begins_like_a_record_ends(body: bytes) -> None:
    assert {item.reason for item in read(body, "")} == {"damaged_record"}
    assert topics(read(body + b"\n" + unpacked(answer("otters")), ""))[-1][1] == "otters"


@pytest.mark.parametrize(
    ("pattern", "instead"),
    [
        (rb"Content-Length: \d+", b"Content-Length: 9"),
        (rb"Content-Length: \d+", b"Content-Length: 3000"),
        (rb"Content-Length: \d+", b"Content-Length: 99999999999"),
        (rb"Content-Length: \d+", b"Content-Length: many"),
        (rb"Content-Length: \d+", b"Content-Length: " + b"9" * 5000),
        (rb"Content-Length: \d+", "Content-Length: \u0663".encode()),
        (rb"WARC/1.0", b"WRAC/1.0"),
        (rb"About violins", b"About vi0lins"),
        (rb"HTTP/1.1 200", b"HTPT/1.1 200"),
        (rb"WARC-Date: ", b"no field\r\nWARC-Date: "),
    ],
)
def test_a_damaged_record_of_a_plain_archive_costs_no_other(pattern: bytes, instead: bytes) -> None:
    plain = [unpacked(record) for record in ARCHIVE]
    plain[3] = re.sub(pattern, instead, plain[3], count=1)
    found = topics(read(b"".join(plain), ""))
    assert [topic for _, topic in found if topic in PAGES] == ["otters", "glaciers", "harbours"]
    assert [reason for _, reason in found if reason not in PAGES] in (
        ["damaged_record"],
        ["oversized"],
    )


@pytest.mark.parametrize("compression", ["gz", ""])
def test_a_truncated_archive_gives_the_records_before_its_end(compression: Compression) -> None:
    body = b"".join(ARCHIVE)
    body = body if compression else unpacked(body)
    items = read(body[:-100], compression)
    assert topics(items)[:3] == GOOD[:3]
    assert [(item.position, type(item)) for item in items[3:]] == [(5, Reject)]


def test_a_page_above_the_limit_is_one_reject() -> None:
    big = answer("big", body=b"<p>" + b"word " * 30_000)
    assert topics(read(big + answer("otters"))) == [(1, "oversized"), (2, "otters")]
    packed = answer(
        "big", body=gzip.compress(bytes(10_000_000)), fields=[("Content-Encoding", "gzip")]
    )
    assert topics(read(packed + answer("otters"))) == [(1, "oversized"), (2, "otters")]


@pytest.mark.parametrize("name", ["gzip", "br", "zstd", "deflate"])
def test_a_page_that_unpacks_to_too_much_or_is_damaged_is_one_reject(name: str) -> None:
    pack = {
        "gzip": gzip.compress,
        "br": brotli.compress,
        "zstd": zstandard.compress,
        "deflate": zlib.compress,
    }[name]
    fields = [("Content-Encoding", name)]
    bomb = answer("big", body=pack(bytes(30_000_000)), fields=fields)
    assert topics(read(bomb + answer("otters"))) == [(1, "oversized"), (2, "otters")]
    damaged = bytearray(pack(html("big").encode()))
    damaged[len(damaged) // 2 : len(damaged) // 2 + 9] = bytes(9)
    (reject,) = read(answer("big", body=bytes(damaged), fields=fields))
    assert reject.reason in ("damaged_record", "bad_encoding", "nul_bytes")


def test_a_page_that_was_cut_off_while_it_was_packed_is_what_there_is_of_it() -> None:
    body = gzip.compress(html("otters").encode())[:-8]
    assert topics(read(answer("x", body=body, fields=[("Content-Encoding", "gzip")]))) == [
        (1, "otters")
    ]


def test_a_film_of_any_size_is_no_document_and_no_reject() -> None:
    film = answer("film", content_type="video/mp4", body=bytes(200_000))
    lost = answer("lost", status="404 Not Found", body=b"<p>" + b"word " * 30_000)
    assert topics(read(film + lost + answer("otters"))) == [(3, "otters")]


@pytest.mark.parametrize(
    ("pattern", "instead"),
    [
        (rb"(?s)^.*?\r\n\r\n", lambda head: head[0].replace(b"\r\n", b"\n")),
        (rb"\r\n\r\n$", b"\n\n"),
        (rb"\r\n\r\n$", b"\n"),
        (rb"WARC-Date: ", b"X-Note: one\r\n\ttwo\r\n three\r\nWARC-Date: "),
    ],
)
def test_what_other_writers_make_of_line_ends_is_read(pattern: bytes, instead: Any) -> None:
    plain = [re.sub(pattern, instead, unpacked(record)) for record in ARCHIVE]
    assert topics(read(b"".join(plain), "")) == GOOD


@pytest.mark.parametrize("cut", [1, 2, 3, 4])
def test_a_record_whose_end_alone_is_cut_off_is_whole(cut: int) -> None:
    assert topics(read(unpacked(b"".join(ARCHIVE))[:-cut], "")) == GOOD


def test_records_that_promise_more_than_they_have_take_no_time_for_it() -> None:
    false = unpacked(answer("x", body=b"y"))
    false = re.sub(rb"Content-Length: \d+", b"Content-Length: 9000000", false, count=1)
    archive = false * 30_000 + unpacked(answer("otters"))
    # 13 MB that are read once, not 30,000 times 9 MB.
    assert topics(read(archive, "", 10_000_000))[-1] == (30_001, "otters")


@settings(max_examples=200)
@given(
    st.binary(max_size=120)
    | st.text(alphabet="HTP/1.0 2\r\n:;=-aContentEcdigzipbr5", max_size=120).map(str.encode)
)
def test_any_bytes_are_an_answer_or_none(block: bytes) -> None:
    for begin in (b"", b"HTTP/1.1 200 OK\r\nContent-Encoding: "):
        with contextlib.suppress(ValueError):
            assert len(read_answer(begin + block).body(10)) <= max(11, len(block))


@settings(max_examples=60)
@given(st.binary(max_size=200), st.sampled_from(["gz", ""]), st.integers(0, 3))
def test_any_bytes_between_records_cost_no_record_that_follows_them(
    noise: bytes, compression: Compression, before: int
) -> None:
    records = ARCHIVE if compression else list(map(unpacked, ARCHIVE))
    items = read(b"".join([*records[:before], noise, b"\r\n", *records[before:]]), compression)
    assert [item.text.split()[1] for item in items if isinstance(item, Record)] == PAGES
