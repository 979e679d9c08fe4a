from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.document_table import write_document_table
from tasks.settle import LATE_REASONS, Settled
from tasks.split import DROPPED, TRAIN, key_of
from tests.support.spooled import document, spooled


def _write(path: Path, count: int, edited: dict[int, str] | None = None) -> pa.Table:
    """Documents of which the first is dropped and the last is beyond the holdout's cap."""
    documents = [
        replace(document(f"web/d{n}"), cluster=f"c{n % 3}", position=n, time="2026")
        for n in range(count)
    ]
    reasons = ["too_short", *[""] * (count - 1)]
    spool = spooled(path.with_suffix(".spool"), documents, [[7] * n for n in range(count)], reasons)
    splits = np.array([DROPPED, *[TRAIN] * (count - 2), DROPPED], np.int8)
    lengths, firsts = np.arange(count), np.arange(count) * 10 - 1
    late = np.zeros(count, np.int8)
    late[-1] = LATE_REASONS.index("holdout_cap")
    settled = Settled(splits, late, edited or {}, [])
    write_document_table(spool, path, settled=settled, lengths=lengths, first_tokens=firsts)
    return pq.read_table(path)


def test_the_columns_are_those_of_the_format(tmp_path: Path) -> None:
    table = _write(tmp_path / "t.parquet", 3)
    assert {name: str(table.schema.field(name).type) for name in table.schema.names} == {
        "document": "string",
        "content": "fixed_size_binary[16]",
        "cluster": "string",
        "cluster_key": "fixed_size_binary[16]",
        "source": "string",
        "uri": "string",
        "position": "int64",
        "domain": "string",
        "licence": "string",
        "time": "string",
        "date": "string",
        "language": "string",
        "language_probability": "double",
        "address": "string",
        "provenance": "string",
        "synthetic_of": "string",
        "tokens": "int64",
        "split": "string",
        "reason": "string",
        "first_token": "int64",
    }
    assert table.to_pylist()[0] == {
        "document": "web/d0",
        "content": b"web/d0..........",
        "cluster": "c0",
        "cluster_key": key_of("c0"),
        "source": "s",
        "uri": "/data/s",
        "position": 0,
        "domain": "web",
        "licence": "cc0",
        "time": "2026",
        "date": "",
        "language": "",
        "language_probability": None,
        "address": "",
        "provenance": "real",
        "synthetic_of": "",
        "tokens": 0,
        "split": "dropped",
        "reason": "too_short",
        "first_token": -1,
    }


def test_what_is_dropped_late_says_so_instead_of_what_the_stages_said(tmp_path: Path) -> None:
    table = _write(tmp_path / "t.parquet", 4)
    assert table.column("reason").to_pylist() == ["too_short", "", "", "holdout_cap"]
    assert table.column("split").to_pylist() == ["dropped", "train", "train", "dropped"]


def test_batches_keep_the_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.document_table._ROWS_AT_ONCE", 4)
    table = _write(tmp_path / "t.parquet", 10)
    assert table.column("document").to_pylist() == [f"web/d{n}" for n in range(10)]
    assert table.column("first_token").to_pylist() == [10 * n - 1 for n in range(10)]


def test_the_same_documents_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        _write(tmp_path / name, 20)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_an_edited_version_of_a_held_out_document_has_the_cluster_of_that(tmp_path: Path) -> None:
    table = _write(tmp_path / "t.parquet", 4, {2: "another"})
    assert table.column("cluster").to_pylist() == ["c0", "c1", "another", "c0"]
    assert table.column("cluster_key")[2].as_py() == key_of("another")
