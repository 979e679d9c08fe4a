"""Writes the training and held-out samples of one domain as MDS shards, and digests them meanwhile.

The same samples give the same bytes, those of mosaicml-streaming's ``MDSWriter`` (0.13, with which
the tests compare every byte), in one pass. Nothing is compressed, so that a reader can take one
sample with one ranged read, and so that the bytes do not depend on a compressor's version.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.manifest import FileDigest, digest_bytes
from training.data.holdout import HoldoutDocument

SHARD_BYTES = 8 << 20
"""Size at which a shard is full: small enough to be fetched whole, large enough to be few."""
_WORD_BYTES = 4
"""Of the number of samples, of each sample's offset, of the size of a column that has no fixed one:
little-endian ``uint32``."""


def write_train_shards(
    blocks: Iterable[NDArray[Any]],
    directory: Path,
    *,
    seq_len: int,
    token_dtype: str,
    prefix: str,
) -> tuple[FileDigest, ...]:
    """Write training samples into ``directory``, holding one shard of them besides a block.

    Args:
        blocks: ``token_dtype[rows, seq_len + 1]``, one sample a row, cut into blocks anywhere.
        directory: Must not exist or be empty.
        seq_len: Inputs of a sample.
        token_dtype: ``uint16`` or ``uint32``.
        prefix: Where ``directory`` will lie relative to the manifest; opens the names of the files.

    Returns:
        The shards and their index, none when there are no rows.

    Raises:
        ValueError: A block is of another width or type.
    """
    width, dtype = seq_len + 1, np.dtype(token_dtype)
    row_bytes = width * dtype.itemsize
    shards = _Shards({"tokens": (f"ndarray:{token_dtype}:{width}", row_bytes)}, directory, prefix)
    most = shards.most_samples(row_bytes)
    shard = np.empty((most, width), dtype.newbyteorder("<"))
    filled = 0
    for block in blocks:
        if block.shape[1:] != (width,) or block.dtype != dtype:
            raise ValueError(
                f"rows for {directory} should be {token_dtype}[rows, {width}], found "
                f"{block.dtype}{list(block.shape)}"
            )
        place = 0
        while place < len(block):
            taken = min(most - filled, len(block) - place)
            shard[filled : filled + taken] = block[place : place + taken]
            filled, place = filled + taken, place + taken
            if filled == most:
                shards.write([row_bytes] * most, shard.data)
                filled = 0
    if filled:
        shards.write([row_bytes] * filled, shard[:filled].data)
    return shards.close()


def write_holdout_shards(
    documents: Iterable[HoldoutDocument], directory: Path, *, token_dtype: str, prefix: str
) -> tuple[FileDigest, ...]:
    """Write held-out documents, tokens as little-endian ``token_dtype``; else as for training."""
    columns = {
        "cluster": ("str", None),
        "document": ("str", None),
        "text_bytes": ("int", 8),
        "tokens": ("bytes", None),
    }
    shards = _Shards(columns, directory, prefix)
    dtype = np.dtype(token_dtype).newbyteorder("<")
    waiting: list[bytes] = []
    left = shards.room
    for row in documents:
        sample = _holdout_sample(row, dtype)
        left -= len(sample) + _WORD_BYTES
        if left < 0 and waiting:
            shards.write(list(map(len, waiting)), b"".join(waiting))
            waiting, left = [], shards.room - len(sample) - _WORD_BYTES
        waiting.append(sample)
    if waiting:
        shards.write(list(map(len, waiting)), b"".join(waiting))
    return shards.close()


def _holdout_sample(row: HoldoutDocument, dtype: np.dtype[Any]) -> bytes:
    cluster, document = row.cluster.encode(), row.document.encode()
    tokens = row.tokens.astype(dtype).tobytes()
    sizes = np.array([len(cluster), len(document), len(tokens)], "<u4").tobytes()
    text_bytes = row.text_bytes.to_bytes(8, "little", signed=True)
    return b"".join((sizes, cluster, document, text_bytes, tokens))


class _Shards:
    """The files of one folder of shards."""

    def __init__(
        self, columns: Mapping[str, tuple[str, int | None]], directory: Path, prefix: str
    ) -> None:
        self._directory, self._prefix = directory, prefix
        names = sorted(columns)
        self._config: dict[str, Any] = {
            "version": 2,
            "format": "mds",
            "compression": None,
            "hashes": [],
            "size_limit": SHARD_BYTES,
            "column_names": names,
            "column_encodings": [columns[name][0] for name in names],
            "column_sizes": [columns[name][1] for name in names],
        }
        self._config_bytes = json.dumps(self._config, sort_keys=True).encode()
        self._index: list[dict[str, Any]] = []
        self._digests: list[FileDigest] = []

    @property
    def room(self) -> int:
        """Bytes of a shard for samples and their offsets."""
        return SHARD_BYTES - 2 * _WORD_BYTES - len(self._config_bytes)

    def most_samples(self, sample_bytes: int) -> int:
        """Samples of one size that a shard has room for; one that is too large has its own."""
        return max(1, self.room // (sample_bytes + _WORD_BYTES))

    def write(self, sizes: Sequence[int], samples: "bytes | memoryview[Any]") -> None:
        """Write the next shard: ``samples`` one after the other, of these sizes in bytes."""
        if not self._index and sizes[0] + _WORD_BYTES > self.room:
            # A first sample that is larger than a shard has an empty one before it in MDSWriter.
            self._write([], b"")
        self._write(sizes, samples)

    def close(self) -> tuple[FileDigest, ...]:
        """Write the index, if there is a shard; the files in the order of their names."""
        if not self._index:
            return ()
        body = json.dumps({"version": 2, "shards": self._index}, sort_keys=True).encode()
        with (self._directory / "index.json").open("xb") as file:
            file.write(body)
        index = digest_bytes(body, f"{self._prefix}/index.json")
        return tuple(sorted((index, *self._digests), key=lambda file: file.name))

    def _write(self, sizes: Sequence[int], samples: "bytes | memoryview[Any]") -> None:
        first = _WORD_BYTES * (len(sizes) + 2) + len(self._config_bytes)
        offsets = first + np.cumsum([0, *sizes], dtype=np.int64)
        count = np.array([len(sizes)], "<u4").tobytes()
        head = count + offsets.astype("<u4").tobytes() + self._config_bytes
        name = f"shard.{len(self._index):05}.mds"
        self._directory.mkdir(parents=True, exist_ok=True)
        digest = sha256(head)
        digest.update(samples)
        with (self._directory / name).open("xb") as file:
            file.write(head)
            file.write(samples)
        size = int(offsets[-1])
        self._digests.append(FileDigest(f"{self._prefix}/{name}", size, digest.hexdigest()))
        raw = {"basename": name, "bytes": size, "hashes": {}}
        self._index.append(
            {"samples": len(sizes), "raw_data": raw, "zip_data": None, **self._config}
        )
