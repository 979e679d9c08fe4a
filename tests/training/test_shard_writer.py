import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.manifest import FileDigest, digest_file
from training.data.holdout import HoldoutDocument
from training.shard_writer import write_holdout_shards, write_train_shards


def _rows(count: int = 40, width: int = 9) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 60_000, (count, width)).astype(np.uint16)


def _write(rows: np.ndarray, directory: Path) -> tuple[FileDigest, ...]:
    return write_train_shards(
        [rows],
        directory,
        seq_len=rows.shape[1] - 1,
        token_dtype=rows.dtype.name,
        prefix="web/train",
    )


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
    from training.foreign.torchvision_operators import declare_missing_operators

    declare_missing_operators()
    from streaming.base.format import reader_from_json

    index = json.loads((directory / "index.json").read_text())
    readers = [reader_from_json(str(directory), None, shard) for shard in index["shards"]]
    return [reader[i] for reader in readers for i in range(reader.size)]


def test_training_rows_come_back_through_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.shard_writer.SHARD_BYTES", 512)
    rows = _rows()
    files = _write(rows, tmp_path / "out")
    assert len(files) > 2, "expected several shards and the index"
    found = np.stack([np.asarray(row["tokens"]) for row in _read(tmp_path / "out")])
    np.testing.assert_array_equal(found, rows)


def _streamings_bytes(
    columns: dict[str, str], samples: list[dict[str, Any]], directory: Path, shard_bytes: int
) -> dict[str, bytes]:
    """What MDSWriter makes of the samples."""
    from training.foreign.torchvision_operators import declare_missing_operators

    declare_missing_operators()
    from streaming import MDSWriter

    with MDSWriter(columns=columns, out=str(directory), size_limit=shard_bytes) as writer:
        for sample in samples:
            writer.write(sample)
    return _bytes_of(directory)


def _bytes_of(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@settings(max_examples=30, deadline=None)
@given(
    count=st.integers(1, 60),
    width=st.integers(1, 40),
    dtype=st.sampled_from(["uint16", "uint32"]),
    shard_bytes=st.integers(150, 900),
    cuts=st.lists(st.integers(0, 60), max_size=6),
)
def test_training_shards_and_index_are_the_bytes_of_streamings_writer(
    count: int, width: int, dtype: str, shard_bytes: int, cuts: list[int]
) -> None:
    rows = np.random.default_rng(count).integers(0, 60_000, (count, width)).astype(dtype)
    blocks = np.split(rows, sorted(cut for cut in cuts if cut <= count))
    with TemporaryDirectory() as scratch, pytest.MonkeyPatch.context() as patch:
        ours, theirs = Path(scratch, "ours"), Path(scratch, "theirs")
        patch.setattr("training.shard_writer.SHARD_BYTES", shard_bytes)
        files = write_train_shards(
            blocks, ours, seq_len=width - 1, token_dtype=dtype, prefix="web/train"
        )
        columns = {"tokens": f"ndarray:{dtype}:{width}"}
        samples = [{"tokens": row} for row in rows]
        assert _bytes_of(ours) == _streamings_bytes(columns, samples, theirs, shard_bytes)
        names = sorted(path.name for path in theirs.iterdir())
        assert list(files) == [digest_file(theirs / name, f"web/train/{name}") for name in names]


@settings(max_examples=30, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.text(max_size=9), st.integers(0, 300), st.integers(0, 1 << 40)),
        min_size=1,
        max_size=30,
    ),
    dtype=st.sampled_from(["uint16", "uint32"]),
    shard_bytes=st.integers(260, 1500),
)
def test_held_out_shards_and_index_are_the_bytes_of_streamings_writer(
    rows: list[tuple[str, int, int]], dtype: str, shard_bytes: int
) -> None:
    documents = [
        HoldoutDocument(
            document=name,
            cluster=name[::-1] + "\u6f22",
            tokens=np.arange(length, dtype=dtype),
            text_bytes=size,
        )
        for name, length, size in rows
    ]
    samples: list[dict[str, Any]] = [
        {
            "document": row.document,
            "cluster": row.cluster,
            "tokens": row.tokens.astype(np.dtype(dtype).newbyteorder("<")).tobytes(),
            "text_bytes": row.text_bytes,
        }
        for row in documents
    ]
    columns = {"document": "str", "cluster": "str", "tokens": "bytes", "text_bytes": "int"}
    with TemporaryDirectory() as scratch, pytest.MonkeyPatch.context() as patch:
        ours, theirs = Path(scratch, "ours"), Path(scratch, "theirs")
        patch.setattr("training.shard_writer.SHARD_BYTES", shard_bytes)
        files = write_holdout_shards(documents, ours, token_dtype=dtype, prefix="web/holdout")
        assert _bytes_of(ours) == _streamings_bytes(columns, samples, theirs, shard_bytes)
        names = sorted(path.name for path in theirs.iterdir())
        assert list(files) == [digest_file(theirs / name, f"web/holdout/{name}") for name in names]


def test_shards_of_their_usual_size_are_the_bytes_of_streamings_writer(tmp_path: Path) -> None:
    rows = np.random.default_rng(1).integers(0, 60_000, (9000, 1025)).astype(np.uint16)
    files = _write(rows, tmp_path / "ours")
    assert len(files) == 4
    samples = [{"tokens": row} for row in rows]
    theirs = _streamings_bytes(
        {"tokens": "ndarray:uint16:1025"}, samples, tmp_path / "theirs", 8 << 20
    )
    assert _bytes_of(tmp_path / "ours") == theirs


def test_rows_of_another_width_or_type_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"should be uint16\[rows, 9\], found uint32\[40, 9\]"):
        write_train_shards(
            [_rows().astype(np.uint32)], tmp_path, seq_len=8, token_dtype="uint16", prefix="p"
        )


def test_a_folder_that_has_shards_is_not_written_over(tmp_path: Path) -> None:
    _write(_rows(), tmp_path / "out")
    before = _bytes_of(tmp_path / "out")
    with pytest.raises(FileExistsError):
        _write(_rows() + np.uint16(1), tmp_path / "out")
    assert _bytes_of(tmp_path / "out") == before


def test_a_training_row_has_a_fixed_shape_and_no_compression(tmp_path: Path) -> None:
    _write(_rows(), tmp_path / "out")
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
    train = [_write(_rows(), tmp_path / f"t{i}") for i in range(2)]
    assert train[0] == train[1]
    held = [
        write_holdout_shards(_holdout(), tmp_path / f"h{i}", token_dtype="uint16", prefix="p")
        for i in range(2)
    ]
    assert held[0] == held[1]


def test_digests_are_those_of_the_files(tmp_path: Path) -> None:
    files = _write(_rows(), tmp_path / "out")
    for file in files:
        name = file.name.removeprefix("web/train/")
        assert digest_file(tmp_path / "out" / name, file.name) == file


def test_nothing_is_written_for_no_samples(tmp_path: Path) -> None:
    assert _write(_rows(0), tmp_path / "out") == ()
    assert not (tmp_path / "out").exists()
