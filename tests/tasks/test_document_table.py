from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.document_table import write_document_table
from tasks.documents import Document
from tasks.split import key_of
from tasks.tokenize import TokenizedDocument


def _documents(count: int) -> list[TokenizedDocument]:
    return [
        TokenizedDocument(
            document=Document(
                id=f"web/d{n}",
                cluster=f"c{n % 3}",
                text="",
                source="web",
                uri="/data/web.jsonl",
                position=n,
                domain="web",
                licence="cc0",
                time="2026",
            ),
            content=n.to_bytes(16, "big"),
            tokens=np.arange(n, dtype=np.uint16),
            text_bytes=n,
            split="train" if n else "dropped",
            reason="" if n else "too_short",
        )
        for n in range(count)
    ]


def _write(path: Path, count: int) -> pa.Table:
    lengths, firsts = np.arange(count), np.arange(count) * 10 - 1
    write_document_table(_documents(count), path, lengths=lengths, first_tokens=firsts)
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
        "content": bytes(16),
        "cluster": "c0",
        "cluster_key": key_of("c0"),
        "source": "web",
        "uri": "/data/web.jsonl",
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


def test_batches_keep_the_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.document_table._ROWS_AT_ONCE", 4)
    table = _write(tmp_path / "t.parquet", 10)
    assert table.column("document").to_pylist() == [f"web/d{n}" for n in range(10)]
    assert table.column("first_token").to_pylist() == [10 * n - 1 for n in range(10)]


def test_the_same_documents_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        _write(tmp_path / name, 20)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
