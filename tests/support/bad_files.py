"""Bad input of all kinds and formats, with what is good in it: made for tests."""

import bz2
import gzip
import io
import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from tests.support.web import answer, conversion, info, repacked, unpacked

MAX_DOCUMENT_BYTES = 100_000
PAGES = ("otters", "glaciers", "violins", "harbours")


@dataclass(frozen=True)
class BadFile:
    """A file, which documents of it are good, and why the rest is not."""

    name: str
    body: bytes
    good: tuple[str, ...]
    """First words of the documents that must come out, in order; of those of a packed file that
    are cut off in the middle at least these."""
    reasons: tuple[str, ...]
    """Of the rejects, sorted."""
    at_least: bool = False
    """Whether more documents than the good ones may come out."""


def filled_lines(body: bytes) -> list[int]:
    """Numbers, from 1, of the lines that are not blank, as a file of JSON lines has them.

    LF, CR LF and CR alone end them.
    """
    numbered = enumerate(body.splitlines(), start=1)
    return [number for number, line in numbered if line and not line.isspace()]


def _words(number: int) -> str:
    return f"document-{number} " + " ".join(random.Random(number).choices("abcdefgh", k=30))


def _line(number: int) -> bytes:
    return json.dumps({"text": _words(number), "id": f"i{number}"}).encode()


def _names(*numbers: int) -> tuple[str, ...]:
    return tuple(f"document-{number}" for number in numbers)


def jsonl(*bad: bytes) -> bytes:
    """Four good lines, with the bad ones in the middle."""
    return b"\n".join([_line(0), _line(1), *bad, _line(2), _line(3)]) + b"\n"


MANY = b"".join(_line(number) + b"\n" for number in range(3000))

BAD_LINES: dict[str, tuple[bytes, str]] = {
    "cut": (_line(9)[:-20], "malformed_json"),
    "two objects": (_line(8) + _line(9), "malformed_json"),
    "single quotes": (b"{'text': 'x'}", "malformed_json"),
    "raw NUL": (b'{"text": "a\0b"}', "malformed_json"),
    "NULs of a crash": (bytes(4096), "malformed_json"),
    "latin-1": ('{"text": "caf\u00e9"}'.encode("latin-1"), "bad_utf8"),
    "utf-16": ('{"text": "wide"}'.encode("utf-16-le"), "malformed_json"),
    "utf-8 twice cut": (b'{"text": "\xc3"}', "bad_utf8"),
    "half a pair": (b'{"text": "\\ud83d", "id": "x"}', "lone_surrogate"),
    "deep": (b'{"text": "x", "deep": ' + b"[" * 40_000 + b"]" * 39_990, "too_deep"),
    "deep and whole": (
        b'{"text": "x", "deep": ' + b'{"a":' * 9000 + b"1" + b"}" * 9001,
        "too_deep",
    ),
    "number": (b'{"text": 5, "id": "x"}', "text_not_string"),
    "object": (b'{"text": {"body": "x"}, "id": "x"}', "text_not_string"),
    "null": (b'{"text": null, "id": "x"}', "missing_text"),
    "other field": (b'{"body": "x", "id": "x"}', "missing_text"),
    "blank": (b'{"text": " \\t\\n", "id": "x"}', "empty"),
    "list": (b'["x"]', "not_an_object"),
    "no id": (b'{"text": "x"}', "missing_id"),
    "id of another type": (b'{"text": "x", "id": {"$oid": "5"}}', "id_not_string"),
    "repeated id": (b'{"text": "x", "id": "i1"}', "duplicate_id"),
    "large": (b'{"text": "' + b"x" * (MAX_DOCUMENT_BYTES + 1) + b'"}', "oversized"),
    "no json": (b"Traceback (most recent call last):", "malformed_json"),
}


def _packed(suffix: str, pack: Callable[[bytes], bytes]) -> list[BadFile]:
    """Damage to a packed file; what lies before it comes out."""
    whole = pack(MANY)
    # Of bzip2 a block is all or nothing, and this is the first of several.
    first = _names(*range(1000))
    altered = bytearray(whole)
    altered[len(whole) * 3 // 4] ^= 0x55
    every = _names(*range(3000))
    return [
        BadFile(
            f"cut.jsonl{suffix}", whole[: len(whole) * 3 // 4], first, ("truncated_file",), True
        ),
        BadFile(f"junk.jsonl{suffix}", whole + b"junk behind the end", every, ("damaged_file",)),
        BadFile(f"plain.jsonl{suffix}", MANY, (), ("damaged_file",)),
        BadFile(
            f"between.jsonl{suffix}",
            pack(jsonl()) + b"junk" * 99 + pack(_line(4) + b"\n"),
            _names(0, 1, 2, 3, 4),
            ("damaged_file",),
        ),
        BadFile(f"joined.jsonl{suffix}", whole + whole[:9], every, ("truncated_file",)),
        BadFile(f"none.jsonl{suffix}", b"", (), ("empty_file",)),
        BadFile(f"nothing.jsonl{suffix}", pack(b"\n\n"), (), ("empty_file",)),
        BadFile(
            f"huge.jsonl{suffix}",
            pack(jsonl(b'{"text": "' + b"x" * 100_000_000 + b'"}')),
            _names(0, 1, 2, 3),
            ("oversized",),
        ),
    ]


def _csv(*bad: bytes) -> bytes:
    rows = [b"%d,document-%d and more,x" % (number, number) for number in range(4)]
    return b"\n".join([b"id,text,other", *rows[:2], *bad, *rows[2:]]) + b"\n"


def _csv_files() -> list[BadFile]:
    good = _names(0, 1, 2, 3)
    bad = {
        "few": (b"9,too few", ("wrong_columns",)),
        "many": (b"9,too,many,fields", ("wrong_columns",)),
        "open": (b'9,"never closed,x', ("malformed_csv",)),
        "opens": (b'9,"never closed,x\n8,"and again,x', ("malformed_csv",) * 2),
        "letters": (b'9,"a"b,x', ("malformed_csv",)),
        "nul": (b"9,a\0b,x", ("nul_bytes",)),
        "latin": (b"9,caf\xe9,x", ("bad_utf8",)),
        "blank": (b'9," ",x', ("empty",)),
        "large": (b"9," + b"x" * MAX_DOCUMENT_BYTES + b",x", ("oversized",)),
        "field": (b'9,"' + b"some words\n" * 10_000 + b'",x', ("oversized",)),
        "repeated": (b"1,document-9,x", ("duplicate_id",)),
    }
    files = [BadFile(f"{name}.csv", _csv(row), good, told) for name, (row, told) in bad.items()]
    return [
        *files,
        BadFile("old mac.csv", _csv(b"9,x").replace(b"\n", b"\r"), good, ("wrong_columns",)),
        BadFile(
            "old mac and an LF.csv",
            _csv(b"9,x").replace(b"\n", b"\r") + b"\n",
            good,
            ("wrong_columns",),
        ),
        BadFile("column.csv", b"id,body\n1,x\n", (), ("wrong_column",)),
        BadFile("header.csv", b"id,text\n", (), ("empty_file",)),
        BadFile("none.csv", b"", (), ("empty_file",)),
        BadFile("cut.csv.gz", gzip.compress(_csv())[:-4], good, ("truncated_file",)),
    ]


def _table(texts: Sequence[object], kind: pa.DataType | None = None) -> pa.Table:
    ids = [f"i{number}" for number in range(len(texts))]
    return pa.table({"text": pa.array(texts, kind), "id": pa.array(ids, pa.string())})


def _parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=2, use_dictionary=False, write_page_checksum=True)
    return sink.getvalue()


def _stream(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return sink.getvalue()


def _table_files() -> list[BadFile]:
    texts = [_words(number) for number in range(4)]
    whole = _parquet(_table(texts))
    altered = bytearray(whole)
    column = pq.ParquetFile(io.BytesIO(whole)).metadata.row_group(0).column(0)
    # At its end: in the middle lie statistics, which cost no document.
    altered[column.data_page_offset + column.total_compressed_size - 5] ^= 0x55
    binary = pa.array([b"document-0", b"caf\xe9", b"document-2"])
    invalid = pa.Array.from_buffers(pa.string(), 3, binary.buffers())
    gaps = ["document-0", None, " ", "x" * (MAX_DOCUMENT_BYTES + 1), "document-4"]
    found = ("empty", "missing_text", "oversized")
    files: list[BadFile] = []
    for suffix, write in {".parquet": _parquet, ".arrow": _stream}.items():
        files += [
            BadFile(f"gaps{suffix}", write(_table(gaps)), _names(0, 4), found),
            BadFile(f"utf8{suffix}", write(_table(invalid)), _names(0, 2), ("bad_utf8",)),
            BadFile(f"type{suffix}", write(_table([1, 2])), (), ("wrong_column",)),
            BadFile(f"lists{suffix}", write(_table([["x"], ["y"]])), (), ("wrong_column",)),
            BadFile(f"column{suffix}", write(pa.table({"id": ["x"]})), (), ("wrong_column",)),
            BadFile(f"rows{suffix}", write(_table([], pa.string())), (), ("empty_file",)),
            BadFile(f"none{suffix}", b"", (), ("empty_file",)),
            BadFile(f"text{suffix}", jsonl(), (), ("damaged_file",)),
        ]
    return [
        *files,
        BadFile("cut.parquet", whole[:-9], (), ("damaged_file",)),
        BadFile("altered.parquet", bytes(altered), _names(2, 3), ("damaged_file",)),
        BadFile("cut.arrow", _stream(_table(texts))[:-60], _names(0, 1), ("damaged_file",)),
    ]


def _text_files() -> list[BadFile]:
    return [
        BadFile("latin.txt", b"caf\xe9", (), ("bad_utf8",)),
        BadFile("wide.md", "wide".encode("utf-16"), (), ("bad_utf8",)),
        BadFile("binary.py", b"\x7fELF\0\0\0", (), ("nul_bytes",)),
        BadFile("none.py", b"", (), ("empty_file",)),
        BadFile("blank.md", b"\xef\xbb\xbf \r\n", (), ("empty_file",)),
        BadFile("large.rs", b"x" * (MAX_DOCUMENT_BYTES + 1), (), ("oversized",)),
        BadFile("marked.txt", b"\xef\xbb\xbfdocument-0", _names(0), ()),
    ]


def _web_files() -> list[BadFile]:
    records = [info(), *map(answer, PAGES)]
    damaged = bytearray(records[2])
    damaged[len(damaged) // 2] ^= 0x55
    plain = unpacked(records[2])
    long = re.sub(rb"Content-Length: \d+", b"Content-Length: 2500", plain, count=1)
    others = tuple(page for page in PAGES if page != PAGES[1])

    def archive(record: bytes, *, is_plain: bool = False) -> bytes:
        around = [*records[:2], b"", *records[3:]]
        return b"".join(
            record if not each else unpacked(each) if is_plain else each for each in around
        )

    return [
        BadFile("member.warc.gz", archive(bytes(damaged)), others, ("damaged_record",)),
        BadFile("junk.warc.gz", archive(b"junk" * 99), others, ("damaged_record",)),
        BadFile("cut.warc.gz", b"".join(records)[:-200], PAGES[:3], ("truncated_file",)),
        BadFile("length.warc", archive(long, is_plain=True), others, ("damaged_record",)),
        BadFile(
            "letters.warc",
            archive(plain.replace(b"About gl", b"About GL"), is_plain=True),
            others,
            ("damaged_record",),
        ),
        BadFile(
            "latin.wet.gz", conversion(b"caf\xe9") + conversion(b"good"), ("good",), ("bad_utf8",)
        ),
        BadFile(
            "junk.warc.zst",
            b"".join([*map(repacked, records[:2]), b"junk", *map(repacked, records[3:])]),
            others,
            ("damaged_record",),
        ),
        BadFile("none.warc.gz", b"", (), ("empty_file",)),
        BadFile("text.warc", jsonl(), (), ("damaged_record",)),
        BadFile("latin.html", b"<p>caf\xe9</p>", (), ("bad_encoding",)),
        BadFile("script.html", b"<script>run()</script>", (), ("no_main_text",)),
        BadFile("deep.html", b"<div>" * 15_000, (), ("no_main_text",)),
        BadFile("none.html", b"", (), ("empty_file",)),
    ]


def bad_files() -> list[BadFile]:
    """All of them, each name once."""
    lines = [
        BadFile(f"{kind}.jsonl", jsonl(line), _names(0, 1, 2, 3), (reason,))
        for kind, (line, reason) in BAD_LINES.items()
    ]
    marked = jsonl(b"\xef\xbb\xbf" + _line(9))
    return [
        *lines,
        BadFile("joined with a mark.jsonl", marked, _names(0, 1, 9, 2, 3), ()),
        BadFile("no last line end.jsonl", jsonl()[:-1], _names(0, 1, 2, 3), ()),
        BadFile("windows.jsonl", jsonl().replace(b"\n", b"\r\n\r\n"), _names(0, 1, 2, 3), ()),
        BadFile(
            "old mac.jsonl",
            jsonl(b"{").replace(b"\n", b"\r"),
            _names(0, 1, 2, 3),
            ("malformed_json",),
        ),
        BadFile(
            "old mac and an LF.jsonl",
            jsonl(b"{").replace(b"\n", b"\r") + b"\n",
            _names(0, 1, 2, 3),
            ("malformed_json",),
        ),
        BadFile("none.jsonl", b"", (), ("empty_file",)),
        BadFile("lines.jsonl", b"\n \r\n", (), ("empty_file",)),
        *_packed(".gz", lambda body: gzip.compress(body, 1)),
        *_packed(".bz2", lambda body: bz2.compress(body, 1)),
        *_packed(".zst", zstandard.compress),
        *_csv_files(),
        *_table_files(),
        *_text_files(),
        *_web_files(),
    ]
