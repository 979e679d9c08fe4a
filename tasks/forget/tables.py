"""The tables and lists of a snapshot without what tells of the documents that are forgotten.

Rows keep their places. What stays of a document is the digest of its text and of its cluster, so
that a copy is known, its source, domain, licence, time and language.
"""

import io
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import zstandard

from storage.takedowns import FORGOTTEN, ForgottenDocument
from tasks.curation.annotation_table import DELIVERED
from tasks.forget.passages import Passages

_ROWS_AT_ONCE = 16_384
_BLANK: Mapping[str, Any] = {
    "cluster": "",
    "uri": "",
    "position": 0,
    "address": "",
    "synthetic_of": "",
    "tokens": 0,
    "first_token": -1,
    "split": "dropped",
    "reason": FORGOTTEN,
}


def without_documents(path: Path, target: Path, documents: Sequence[ForgottenDocument]) -> None:
    """Write a table of documents in which the rows of ``documents`` tell nothing of them."""
    rows = [one.row for one in documents]
    names = {one.row: one.stand_in for one in documents}

    def change(name: str, values: list[Any]) -> None:
        for row in rows:
            if name == "document":
                values[row] = names[row]
            elif name in _BLANK:
                values[row] = _BLANK[name]

    _rewrite(path, target, change)


def without_annotations(path: Path, target: Path, documents: Sequence[ForgottenDocument]) -> None:
    """Write a table of annotations in which those of ``documents`` are null."""
    import pyarrow.parquet as pq  # noqa: PLC0415  heavy, and the scheduler imports this module

    names = {one.document: one.stand_in for one in documents}
    listed = pq.read_table(path, columns=["document"])["document"].to_pylist()
    rows = [row for row, name in enumerate(listed) if name in names]

    def change(name: str, values: list[Any]) -> None:
        for row in rows:
            if name == "document":
                values[row] = names[values[row]]
            elif name not in ("domain", DELIVERED):
                values[row] = None

    _rewrite(path, target, change)


def without_ledger_names(
    path: Path, target: Path, named: Mapping[tuple[str, str, str], str]
) -> bool:
    """Write a ledger with other names for some documents; whether there was any.

    ``named``: by snapshot, domain and document.
    """
    import pyarrow.parquet as pq  # noqa: PLC0415  heavy, and the scheduler imports this module

    columns = ("snapshot", "domain", "document")
    table = pq.read_table(path, columns=list(columns))
    places = list(zip(*(table[name].to_pylist() for name in columns), strict=True))
    if not any(place in named for place in places):
        return False

    def change(name: str, values: list[Any]) -> None:
        if name == "document":
            values[:] = [named.get(place, place[2]) for place in places]

    _rewrite(path, target, change, with_checksums=True)
    return True


def without_lines(body: bytes, documents: Iterable[ForgottenDocument], passages: Passages) -> bytes:
    """Lines of JSON about other documents only, none of which quotes one."""
    names = {one.document for one in documents}
    kept = [
        line
        for line in body.splitlines(keepends=True)
        if json.loads(line).get("document") not in names and not passages.found_in(line)
    ]
    return b"".join(kept)


def without_details(
    packed: bytes, documents: Iterable[ForgottenDocument], passages: Passages
) -> bytes | None:
    """The quarantine without details that quote or name a document; None when none does."""
    names = {one.document.partition("/")[2] for one in documents}
    lines = unpacked_lines(packed)
    changed = [_without_detail(line, names, passages) for line in lines]
    if changed == lines:
        return None
    target = io.BytesIO()
    with zstandard.ZstdCompressor().stream_writer(target, closefd=False) as writer:
        for line in changed:
            writer.write(line)
    return target.getvalue()


def unpacked_lines(packed: bytes) -> list[bytes]:
    """The lines of a quarantine."""
    with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(packed)) as stream:
        return stream.read().splitlines(keepends=True)


def _without_detail(line: bytes, names: Collection[str], passages: Passages) -> bytes:
    row = json.loads(line)
    is_named = row["reason"] == "duplicate_id" and any(name in row["detail"] for name in names)
    if not is_named and not passages.found_in(line):
        return line
    return json.dumps({**row, "detail": FORGOTTEN}, sort_keys=True).encode() + b"\n"


def _rewrite(
    path: Path,
    target: Path,
    change: Callable[[str, list[Any]], None],
    *,
    with_checksums: bool = False,
) -> None:
    """Write a table anew, so that neither its pages nor its statistics have what it had before."""
    import pyarrow as pa  # noqa: PLC0415  heavy, and the scheduler imports this module
    import pyarrow.parquet as pq  # noqa: PLC0415

    table = pq.read_table(path, page_checksum_verification=with_checksums)
    columns: list[Any] = []
    for field in table.schema:
        values = table[field.name].to_pylist()
        before = list(values)
        change(field.name, values)
        columns.append(table[field.name] if values == before else pa.array(values, field.type))
    target.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        pa.table(columns, schema=table.schema),
        target,
        compression="zstd",
        row_group_size=_ROWS_AT_ONCE,
        write_page_checksum=with_checksums,
    )
