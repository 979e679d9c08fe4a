"""MDS shards, read with numpy alone.

mosaicml-streaming writes them and can read them; this reader takes whole batches out of memory
maps, many times faster (``tests/benchmarks/bench_reader.py``), and trusts no byte whose hash was
not checked against the snapshot's manifest.

A shard is: the number of samples and the offsets of all samples and of the end (uint32), a JSON
header, the samples. A sample is: the sizes (uint32) of its variable columns, then all columns.
"""

import json
from collections import OrderedDict
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.errors import CorruptError
from storage.manifest import FileDigest, fetch_verified, read_verified
from storage.objects import ObjectStore
from training.holdout import HoldoutDocument

_MAX_OPEN_SHARDS = 256
"""A memory map holds a file descriptor."""


class MdsReader:
    """The shards of one folder of a snapshot, opened when first needed.

    Args:
        store: Where the snapshot lies.
        prefix: Prefix of the snapshot; names in ``files`` are relative to it.
        folder: Folder of the shards below ``prefix``, e.g. ``web-en/train``.
        files: The snapshot's manifest.
        cache: Local folder for shards of a store that is not local.

    Raises:
        CorruptError: The index is missing, altered or not MDS.
    """

    def __init__(
        self, store: ObjectStore, prefix: str, folder: str, files: Iterable[FileDigest], cache: Path
    ) -> None:
        self._store, self._prefix, self._cache = store, prefix, cache
        self.folder = folder
        self._files = {file.name: file for file in files if file.name.startswith(f"{folder}/")}
        index = json.loads(read_verified(store, prefix, self._digest("index.json")))
        self._shards: list[dict[str, Any]] = index["shards"]
        for shard in self._shards:
            if shard["format"] != "mds" or shard["version"] != 2 or shard["compression"]:
                raise CorruptError(
                    f"{prefix}/{folder}/index.json must list uncompressed MDS 2 shards, found "
                    f"{shard['format']} {shard['version']} compression {shard['compression']}; "
                    "mint the snapshot again"
                )
        counts = np.array([shard["samples"] for shard in self._shards], np.int64)
        self.first_rows: NDArray[np.int64] = np.concatenate([[0], np.cumsum(counts)])
        self._open: OrderedDict[int, NDArray[np.uint8]] = OrderedDict()

    def __len__(self) -> int:
        return int(self.first_rows[-1])

    def columns(self, shard: int) -> list[tuple[str, str, int | None]]:
        """Name, encoding and size (None: variable) of each column, in the order of their bytes."""
        info = self._shards[shard]
        return list(
            zip(info["column_names"], info["column_encodings"], info["column_sizes"], strict=True)
        )

    def bytes_of(self, shard: int) -> NDArray[np.uint8]:
        """All bytes of a shard; its hash is checked each time it is opened.

        Raises:
            CorruptError: Names the shard that is missing, short or altered.
        """
        if shard not in self._open:
            file = self._digest(self._shards[shard]["raw_data"]["basename"])
            path = fetch_verified(self._store, self._prefix, file, self._cache / file.name)
            self._open[shard] = np.memmap(path, np.uint8, mode="r")
            if len(self._open) > _MAX_OPEN_SHARDS:
                self._open.popitem(last=False)
        self._open.move_to_end(shard)
        return self._open[shard]

    def offsets(self, shard: int) -> NDArray[np.int64]:
        """Where each sample of the shard begins, and where the last one ends."""
        raw = self.bytes_of(shard)
        count = int(raw[:4].view("<u4")[0])
        if count != self._shards[shard]["samples"]:
            raise CorruptError(
                f"shard {shard} of {self._prefix}/{self.folder} holds {count} samples, its index "
                f"promises {self._shards[shard]['samples']}; mint the snapshot again"
            )
        return raw[4 : 4 + 4 * (count + 1)].view("<u4").astype(np.int64)

    @property
    def num_shards(self) -> int:
        """Files, opened or not."""
        return len(self._shards)

    def _digest(self, name: str) -> FileDigest:
        try:
            return self._files[f"{self.folder}/{name}"]
        except KeyError:
            raise CorruptError(
                f"{self._prefix}/{self.folder}/{name} is not in the snapshot's manifest; "
                "mint the snapshot again"
            ) from None


class TrainShards:
    """Training samples of one domain of one snapshot, by row.

    Args:
        reader: The shards of ``<domain>/train``.
        seq_len: Inputs of a sample; a row has ``seq_len + 1`` tokens.

    Raises:
        CorruptError: The shards hold something else.
    """

    def __init__(self, reader: MdsReader, *, seq_len: int) -> None:
        self._reader = reader
        self._spans: dict[int, tuple[int, int]] = {}
        self._seq_len = seq_len
        self.dtype = np.dtype("<u2")
        for shard in range(reader.num_shards):
            self.dtype = self._dtype_of(shard)

    def __len__(self) -> int:
        return len(self._reader)

    def rows(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Tokens of the given rows, ``uint16`` or ``uint32`` ``[len(rows), seq_len + 1]``, a copy.

        Opens only the shards that hold them. Not safe to call from two threads at once.
        """
        if rows.size and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(
                f"rows {rows.min()} to {rows.max()} do not exist in {self._reader.folder}, which "
                f"has {len(self)}"
            )
        tokens = np.empty((len(rows), self._seq_len + 1), self.dtype)
        shards = np.searchsorted(self._reader.first_rows, rows, side="right") - 1
        for shard in np.unique(shards).tolist():
            mine = shards == shard
            table = self._table(shard)
            tokens[mine] = table[rows[mine] - self._reader.first_rows[shard]]
        return tokens

    def _table(self, shard: int) -> NDArray[Any]:
        """The shard's samples as one array; fixed sizes make them contiguous."""
        if shard not in self._spans:
            offsets = self._reader.offsets(shard)
            width = (self._seq_len + 1) * self.dtype.itemsize
            if not (np.diff(offsets) == width).all():
                raise CorruptError(
                    f"shard {shard} of {self._reader.folder} must hold samples of {width} bytes "
                    "each; mint the snapshot again"
                )
            self._spans[shard] = (int(offsets[0]), int(offsets[-1]))
        begin, end = self._spans[shard]
        raw = self._reader.bytes_of(shard)
        return raw[begin:end].view(self.dtype).reshape(-1, self._seq_len + 1)

    def _dtype_of(self, shard: int) -> np.dtype[Any]:
        for bits in (16, 32):
            encoding = f"ndarray:uint{bits}:{self._seq_len + 1}"
            if [column[:2] for column in self._reader.columns(shard)] == [("tokens", encoding)]:
                return np.dtype(f"<u{bits // 8}")
        raise CorruptError(
            f"shards of {self._reader.folder} must have one column tokens of {self._seq_len + 1} "
            f"uint16 or uint32, found {self._reader.columns(shard)}; is seq_len the lineage's?"
        )


def read_holdout(reader: MdsReader, *, token_dtype: str) -> list[HoldoutDocument]:
    """All documents of a ``<domain>/holdout`` folder, in their order on disk.

    Args:
        reader: The folder.
        token_dtype: ``uint16`` or ``uint32``, as the snapshot's manifest says.
    """
    documents: list[HoldoutDocument] = []
    for shard in range(reader.num_shards):
        columns = reader.columns(shard)
        offsets = reader.offsets(shard).tolist()
        body = reader.bytes_of(shard).tobytes()
        for begin, end in pairwise(offsets):
            row = _decode(body[begin:end], columns)
            documents.append(
                HoldoutDocument(
                    document=row["document"].decode(),
                    cluster=row["cluster"].decode(),
                    tokens=np.frombuffer(row["tokens"], np.dtype(token_dtype).newbyteorder("<")),
                    text_bytes=int.from_bytes(row["text_bytes"], "little", signed=True),
                )
            )
    return documents


def _decode(sample: bytes, columns: list[tuple[str, str, int | None]]) -> dict[str, bytes]:
    """The bytes of each column of a sample."""
    num_variable = sum(size is None for _, _, size in columns)
    sizes = iter(np.frombuffer(sample[: 4 * num_variable], "<u4").tolist())
    values: dict[str, bytes] = {}
    at = 4 * num_variable
    for name, _, fixed in columns:
        size = next(sizes) if fixed is None else fixed
        values[name] = sample[at : at + size]
        at += size
    return values
