"""Shards: the bytes that mosaicml-streaming writes, checked before use."""

from pathlib import Path

import numpy as np
import pytest

from storage.errors import CorruptError, UnavailableError
from storage.file_cache import FileCache
from storage.local_objects import LocalObjects
from storage.manifest import FileDigest, digest_file
from tests.training.tiny_run import SEQ_LEN, put_train_shards, random_rows
from training.data.shards import MdsReader, TrainShards, read_holdout


def reader_of(root: Path, rows: np.ndarray) -> MdsReader:
    store = LocalObjects(root)
    files = put_train_shards(store, "snap", "web/train", rows, rows_per_shard=7)
    return MdsReader(store, "snap", "web/train", files, FileCache(root / "cache"))


def digests(root: Path, folder: str) -> list[FileDigest]:
    paths = sorted((root / folder).iterdir())
    return [digest_file(path, f"{folder}/{path.name}") for path in paths]


# streaming.LocalDataset leaves its index file to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_streaming_writes_what_we_read_and_reads_the_same(tmp_path: Path) -> None:
    from training.foreign.torchvision_operators import declare_missing_operators

    declare_missing_operators()
    from streaming import LocalDataset, MDSWriter

    rows = random_rows(0, 100)
    columns = {"tokens": f"ndarray:uint16:{SEQ_LEN + 1}"}
    out = str(tmp_path / "s/web/train")
    with MDSWriter(columns=columns, out=out, size_limit=500) as writer:
        for row in rows:
            writer.write({"tokens": row})
    documents = [(f"d{n}", f"c{n}", random_rows(n, 1)[0, :n], 3 * n) for n in range(1, 9)]
    columns = {"document": "str", "cluster": "str", "tokens": "bytes", "text_bytes": "int"}
    with MDSWriter(columns=columns, out=str(tmp_path / "s/web/holdout"), size_limit=300) as writer:
        for name, cluster, tokens, size in documents:
            tokens_bytes = tokens.astype("<u2").tobytes()
            sample = {"document": name, "cluster": cluster, "tokens": tokens_bytes}
            writer.write(sample | {"text_bytes": size})

    store = LocalObjects(tmp_path)
    files = digests(tmp_path / "s", "web/train") + digests(tmp_path / "s", "web/holdout")
    reader = MdsReader(store, "s", "web/train", files, FileCache(tmp_path / "cache"))
    shards = TrainShards(reader, seq_len=SEQ_LEN)
    assert reader.num_shards > 3
    theirs = np.stack([sample["tokens"] for sample in LocalDataset(local=out)])
    assert np.array_equal(shards.rows(np.arange(100)), theirs)
    assert np.array_equal(theirs, rows)

    reader = MdsReader(store, "s", "web/holdout", files, FileCache(tmp_path / "cache"))
    assert reader.num_shards > 1
    ours = read_holdout(reader, token_dtype="uint16")
    read = [(row.document, row.cluster, row.tokens.tolist(), row.text_bytes) for row in ours]
    assert read == [(n, c, tokens.tolist(), size) for n, c, tokens, size in documents]


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_rows_come_in_the_order_asked_for(tmp_path: Path, dtype: type) -> None:
    rows = random_rows(0, 30).astype(dtype)
    shards = TrainShards(reader_of(tmp_path, rows), seq_len=SEQ_LEN)
    wanted = np.array([29, 0, 6, 7, 7, 13])
    read = shards.rows(wanted)
    assert read.dtype == dtype
    assert np.array_equal(read, rows[wanted])


def test_only_the_shards_needed_are_opened(tmp_path: Path) -> None:
    reader = reader_of(tmp_path, random_rows(0, 30))
    for path in (tmp_path / "snap/web/train").glob("*.mds"):
        if path.name != "shard.00001.mds":
            path.unlink()
    assert TrainShards(reader, seq_len=SEQ_LEN).rows(np.array([7, 13])).shape == (2, SEQ_LEN + 1)


def test_a_flipped_byte_is_refused_by_name(tmp_path: Path) -> None:
    reader = reader_of(tmp_path, random_rows(0, 30))
    path = tmp_path / "snap/web/train/shard.00002.mds"
    body = bytearray(path.read_bytes())
    body[-5] ^= 1
    path.write_bytes(body)
    shards = TrainShards(reader, seq_len=SEQ_LEN)
    shards.rows(np.array([0]))
    with pytest.raises(CorruptError, match=r"snap/web/train/shard\.00002\.mds was altered"):
        shards.rows(np.array([14]))


class LateStore(LocalObjects):
    """A store on another machine that does not answer at first."""

    failures = 0

    def local_path(self, key: str) -> Path | None:  # noqa: ARG002  a verb
        return None

    def get_file(self, key: str, path: Path) -> None:
        if self.failures:
            self.failures -= 1
            raise UnavailableError("the store does not answer")
        super().get_file(key, path)


def test_shards_of_a_store_that_is_away_are_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("storage.absence.RETRY_SECONDS", 0.01)
    rows = random_rows(0, 30)
    store = LateStore(tmp_path)
    files = put_train_shards(store, "snap", "web/train", rows, rows_per_shard=7)
    cache = FileCache(tmp_path / "cache")
    reader = MdsReader(store, "snap", "web/train", files, cache, wait_seconds=60)
    store.failures = 3
    assert np.array_equal(TrainShards(reader, seq_len=SEQ_LEN).rows(np.array([8, 0])), rows[[8, 0]])
    assert caplog.text.count("web/train/shard.00001.mds waits up to 60 s for the store") == 1
    impatient = MdsReader(store, "snap", "web/train", files, cache, wait_seconds=0)
    store.failures = 1
    with pytest.raises(UnavailableError, match="does not answer"):
        TrainShards(impatient, seq_len=SEQ_LEN).rows(np.array([29]))


def test_a_row_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    shards = TrainShards(reader_of(tmp_path, random_rows(0, 30)), seq_len=SEQ_LEN)
    with pytest.raises(IndexError, match=r"rows 30 to 30 do not exist in web/train, which has 30"):
        shards.rows(np.array([30]))


def test_samples_of_another_length_are_refused(tmp_path: Path) -> None:
    reader = reader_of(tmp_path, random_rows(0, 30))
    with pytest.raises(CorruptError, match="must have one column tokens of 33"):
        TrainShards(reader, seq_len=32)
