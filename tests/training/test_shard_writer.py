import json
from pathlib import Path

import numpy as np
import pytest

from storage.manifest import digest_file
from training.data.holdout import HoldoutDocument
from training.shard_writer import write_holdout_shards, write_train_shards


def _rows(count: int = 40, width: int = 9) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 60_000, (count, width)).astype(np.uint16)


def _holdout() -> list[HoldoutDocument]:
    return [
        HoldoutDocument(
            document=f"d{i}",
            cluster=f"c{i % 2}",
            tokens=np.arange(i + 3, dtype=np.uint16),
            text_bytes=2 * i,
        )
        for i in range(5)
    ]


def _read(directory: Path) -> list[dict[str, object]]:
    """Read with the library's own reader, which is independent of ours."""
    from streaming.base.format import reader_from_json

    index = json.loads((directory / "index.json").read_text())
    readers = [reader_from_json(str(directory), None, shard) for shard in index["shards"]]
    return [reader[i] for reader in readers for i in range(reader.size)]


def test_training_rows_come_back_through_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.shard_writer.SHARD_BYTES", 512)
    rows = _rows()
    files = write_train_shards(rows, tmp_path / "out", prefix="web/train")
    assert len(files) > 2, "expected several shards and the index"
    found = np.stack([np.asarray(row["tokens"]) for row in _read(tmp_path / "out")])
    np.testing.assert_array_equal(found, rows)


def test_a_training_row_has_a_fixed_shape_and_no_compression(tmp_path: Path) -> None:
    write_train_shards(_rows(), tmp_path / "out", prefix="web/train")
    (shard,) = json.loads((tmp_path / "out" / "index.json").read_text())["shards"]
    assert shard["column_encodings"] == ["ndarray:uint16:9"]
    assert shard["compression"] is None


def test_held_out_documents_come_back_through_the_library(tmp_path: Path) -> None:
    write_holdout_shards(_holdout(), tmp_path / "out", token_dtype="uint32", prefix="web/holdout")
    found = _read(tmp_path / "out")
    assert [(row["document"], row["cluster"], row["text_bytes"]) for row in found] == [
        (row.document, row.cluster, row.text_bytes) for row in _holdout()
    ]
    for row, wanted in zip(found, _holdout(), strict=True):
        tokens = row["tokens"]
        assert isinstance(tokens, bytes)
        np.testing.assert_array_equal(np.frombuffer(tokens, "<u4"), wanted.tokens)


def test_the_same_samples_give_the_same_bytes(tmp_path: Path) -> None:
    train = [write_train_shards(_rows(), tmp_path / f"t{i}", prefix="p") for i in range(2)]
    assert train[0] == train[1]
    held = [
        write_holdout_shards(_holdout(), tmp_path / f"h{i}", token_dtype="uint16", prefix="p")
        for i in range(2)
    ]
    assert held[0] == held[1]


def test_digests_are_those_of_the_files(tmp_path: Path) -> None:
    files = write_train_shards(_rows(), tmp_path / "out", prefix="web/train")
    for file in files:
        name = file.name.removeprefix("web/train/")
        assert digest_file(tmp_path / "out" / name, file.name) == file


def test_nothing_is_written_for_no_samples(tmp_path: Path) -> None:
    assert write_train_shards(_rows(0), tmp_path / "out", prefix="web/train") == ()
    assert not (tmp_path / "out").exists()
