"""Reading documents by format, beside what each format's own library takes for the same bytes.

``python tests/benchmarks/bench_sources.py CORPUS.jsonl.gz [...]``: JSONL with a field ``text``. One
process, processor time, interleaved rounds; the ratio is ours to the peer's speed in each round.
"""

# ruff: noqa: T201  a script for people

import csv
import gzip
import io
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from warcio.archiveiterator import ArchiveIterator

from tasks.readers import FieldNames, Place, Record
from tasks.reading.columns import read_arrow, read_parquet
from tasks.reading.csv_rows import read_csv
from tasks.reading.html import read_html
from tasks.reading.jsonl import read_jsonl
from tasks.reading.warc import read_warc
from tests.support.web import conversion, with_text

ROUNDS = 5
PAGES = 300
PLACE = Place(uri="/bench", fields=FieldNames(), max_document_bytes=10_000_000)

Reading = Callable[[], Iterable[str]]


def main(paths: list[str]) -> None:
    """Print a line a format: our MB of text a second, the peer's, and the ratio."""
    texts = [
        json.loads(line)["text"]
        for path in paths
        for line in gzip.decompress(Path(path).read_bytes()).splitlines()
    ]
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    print(f"{len(texts):,} documents, {megabytes:.1f} MB of text, {ROUNDS} rounds")
    for name, ours, theirs in (
        ("JSONL, json", *_jsonl(texts)),
        ("JSONL.gz, gzip and json", *_packed_jsonl(texts)),
        ("CSV, csv", *_csv(texts)),
        ("Parquet, pyarrow", *_parquet(texts)),
        ("Arrow, pyarrow", *_arrow(texts)),
        ("WET.gz, warcio", *_wet(texts)),
    ):
        _compare(name, ours, theirs, megabytes)
    pages = [_page(text) for text in texts[:PAGES]]
    seconds = _seconds(lambda: _texts(item for page in pages for item in _html(page)))
    few = sum(len(text.encode()) for text in texts[:PAGES]) / 1e6
    print(f"HTML (no peer): {few / seconds:.1f} MB/s, {len(pages) / seconds:.0f} pages/s")


def _compare(name: str, ours: Reading, theirs: Reading, megabytes: float) -> None:
    if list(ours()) != list(theirs()):
        raise AssertionError(f"{name}: the documents differ")
    pairs = [(_seconds(ours), _seconds(theirs)) for _ in range(ROUNDS)]
    own, peer = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratios = sorted(peer / own for own, peer in pairs)
    print(
        f"{name}: {megabytes / own:.0f} against {megabytes / peer:.0f} MB/s, "
        f"{statistics.median(ratios):.2f}x ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    )


def _seconds(read: Reading) -> float:
    start = time.process_time()
    for _ in read():
        pass
    return time.process_time() - start


def _texts(items: Iterable[object]) -> Iterable[str]:
    return (item.text for item in items if isinstance(item, Record))


def _jsonl(texts: list[str]) -> tuple[Reading, Reading]:
    body = b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)
    return (
        lambda: _texts(read_jsonl(io.BytesIO(body), PLACE, "")),
        lambda: (json.loads(line)["text"] for line in io.BytesIO(body)),
    )


def _packed_jsonl(texts: list[str]) -> tuple[Reading, Reading]:
    body = b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)
    packed = gzip.compress(body)
    return (
        lambda: _texts(read_jsonl(io.BytesIO(packed), PLACE, "gz")),
        lambda: (json.loads(line)["text"] for line in gzip.open(io.BytesIO(packed))),
    )


def _csv(texts: list[str]) -> tuple[Reading, Reading]:
    file = io.StringIO(newline="")
    csv.writer(file).writerows([("text", "n"), *((text, n) for n, text in enumerate(texts))])
    body = file.getvalue().encode()
    csv.field_size_limit(PLACE.max_document_bytes)

    def theirs() -> Iterable[str]:
        rows = io.TextIOWrapper(io.BytesIO(body), encoding="utf-8", newline="")
        return (row["text"] for row in csv.DictReader(rows))

    return lambda: _texts(read_csv(io.BytesIO(body), PLACE, "", ",")), theirs


def _parquet(texts: list[str]) -> tuple[Reading, Reading]:
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": texts}), sink, row_group_size=1000)
    body = sink.getvalue()

    def theirs() -> Iterable[str]:
        for batch in pq.ParquetFile(io.BytesIO(body)).iter_batches(256):
            yield from batch.column(0).to_pylist()

    return lambda: _texts(read_parquet(io.BytesIO(body), PLACE)), theirs


def _arrow(texts: list[str]) -> tuple[Reading, Reading]:
    sink = io.BytesIO()
    table = pa.table({"text": texts})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=1000)
    body = sink.getvalue()

    def theirs() -> Iterable[str]:
        for batch in pa.ipc.open_stream(io.BytesIO(body)):
            yield from batch.column(0).to_pylist()

    return lambda: _texts(read_arrow(io.BytesIO(body), PLACE)), theirs


def _wet(texts: list[str]) -> tuple[Reading, Reading]:
    body = b"".join(conversion(text.encode()) for text in texts)

    def theirs() -> Iterable[str]:
        for record in ArchiveIterator(io.BytesIO(body)):
            yield record.content_stream().read().decode()

    return lambda: _texts(read_warc(io.BytesIO(body), PLACE, "gz")), theirs


def _page(text: str) -> bytes:
    paragraphs = "".join(f"<p>{part}</p>" for part in text.split("\n\n"))
    return f"<html><body><article>{paragraphs}</article></body></html>".encode()


def _html(page: bytes) -> Iterable[object]:
    return map(with_text, read_html(io.BytesIO(page), PLACE))


if __name__ == "__main__":
    main(sys.argv[1:])
