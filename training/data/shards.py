"""MDS shards, read with numpy alone.

mosaicml-streaming can read them too; this reader takes rows out of memory maps, many
times faster (``tests/benchmarks/bench_reader.py``), and trusts no byte whose hash was not checked
against the snapshot's manifest.

A shard is: the number of samples and the offsets of all samples and of the end (uint32), a JSON
header, the samples. A sample is: the sizes (uint32) of its variable columns, then all columns.
"""

import json
import mmap
from bisect import bisect_right
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.absence import when_reached
from storage.errors import CorruptError
from storage.file_cache import FileCache
from storage.manifest import FileDigest, read_verified
from storage.objects import ObjectStore
from storage.revised import file_named
from training.data.holdout import HoldoutDocument

INDEX = "index.json"
"""Beside the shards of a folder; lists them."""


class MdsReader:
    """The shards of one folder of a snapshot, opened when first needed.

    Args:
        store: Where the snapshot lies.
        prefix: Prefix of the snapshot; names in ``files`` are relative to it.
        folder: Folder of the shards below ``prefix``, e.g. ``web-en/train``.
        files: The snapshot's manifest.
        cache: Opens and checks the shards.
        wait_seconds: How long a store that is away is waited for when a shard is needed.

    Raises:
        CorruptError: The index is missing, altered or not MDS.
    """

    def __init__(
        self,
        store: ObjectStore,
        prefix: str,
        folder: str,
        files: Iterable[FileDigest],
        cache: FileCache,
        *,
        wait_seconds: float = 0.0,
    ) -> None:
        self._store, self._prefix, self._cache = store, prefix, cache
        self._wait_seconds = wait_seconds
        self.folder = folder
        self._files = {file.name: file for file in files if file.name.startswith(f"{folder}/")}
        file = file_named(self._files.values(), f"{folder}/{INDEX}", f"the manifest of {prefix}")
        index = json.loads(read_verified(store, prefix, file))
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

    def __len__(self) -> int:
        return int(self.first_rows[-1])

    @property
    def num_shards(self) -> int:
        """Files, opened or not."""
        return len(self._shards)

    @property
    def num_closed(self) -> int:
        """Files that were closed for others, of this folder or not."""
        return self._cache.num_closed

    def basename(self, shard: int) -> str:
        """Name of a shard's file inside the folder."""
        return self._shards[shard]["raw_data"]["basename"]

    def columns(self, shard: int) -> list[tuple[str, str, int | None]]:
        """Name, encoding and size (None: variable) of each column, in the order of their bytes."""
        info = self._shards[shard]
        return list(
            zip(info["column_names"], info["column_encodings"], info["column_sizes"], strict=True)
        )

    def column_sets(self) -> set[tuple[tuple[str, str], ...]]:
        """The different sets of columns that shards have: (name, encoding) of each column."""
        return {
            tuple(zip(info["column_names"], info["column_encodings"], strict=True))
            for info in self._shards
        }

    def bytes_of(self, shard: int) -> mmap.mmap:
        """All bytes of a shard; its hash is checked each time it is opened.

        Safe to call from several threads.

        Raises:
            CorruptError: Names the shard that is missing, short or altered, and its samples.
            UnavailableError: The store was away for longer than may be waited.
        """
        file = self._digest(self.basename(shard))
        try:
            return when_reached(
                lambda: self._cache.open(self._store, self._prefix, file),
                f"the reading of {file.name}",
                self._wait_seconds,
            )
        except CorruptError as error:
            first, end = self.first_rows[shard : shard + 2].tolist()
            raise CorruptError(
                f"{error} (it holds samples {first} to {end - 1} of {self.folder})"
            ) from error

    def offsets(self, shard: int) -> NDArray[np.int64]:
        """Where each sample of the shard begins, and where the last one ends."""
        raw = self.bytes_of(shard)
        count = int.from_bytes(raw[:4], "little")
        if count != self._shards[shard]["samples"]:
            raise CorruptError(
                f"shard {shard} of {self._prefix}/{self.folder} holds {count} samples, its index "
                f"promises {self._shards[shard]['samples']}; mint the snapshot again"
            )
        return np.frombuffer(raw, "<u4", count + 1, offset=4).astype(np.int64)

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
        self._first_rows: list[int] = reader.first_rows.tolist()
        self._begins: dict[int, int] = {}
        self._tables: dict[int, NDArray[Any]] = {}
        self._num_closed = reader.num_closed
        self.seq_len = seq_len
        self.dtype = self._dtype()
        self._row_bytes = (seq_len + 1) * self.dtype.itemsize

    def __len__(self) -> int:
        return len(self._reader)

    def row(self, row: int) -> NDArray[Any]:
        """Tokens of one row, ``uint16`` or ``uint32`` ``[seq_len + 1]``: the shard's own bytes.

        They cannot be written to, and stay readable after the shard was closed. Opens only the
        shard that holds them. Safe to call from several threads.
        """
        shard = self.shard_of(row)
        table = self._tables[shard] = self._table(shard)
        return table[row - self._first_rows[shard]]

    def open_tables(self) -> tuple[list[int], dict[int, NDArray[Any]]]:
        """First row of every shard, and the rows of those shards that are open, to read at once.

        For who reads many rows and cannot afford a call for each.
        """
        if self._num_closed != self._reader.num_closed:
            # One of ours may be among them, and would stay mapped for as long as it is held here.
            self._num_closed = self._reader.num_closed
            self._tables = {}
        return self._first_rows, self._tables

    def rows(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Tokens of the given rows, ``uint16`` or ``uint32`` ``[len(rows), seq_len + 1]``, copied.

        Opens only the shards that hold them.
        """
        if rows.size and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(
                f"rows {rows.min()} to {rows.max()} do not exist in {self._reader.folder}, which "
                f"has {len(self)}"
            )
        tokens = np.empty((len(rows), self.seq_len + 1), self.dtype)
        for place, row in enumerate(rows.tolist()):
            tokens[place] = self.row(row)
        return tokens

    def shard_of(self, row: int) -> int:
        """Number of the shard that holds ``row``."""
        if not 0 <= row < self._first_rows[-1]:
            raise IndexError(
                f"row {row} does not exist in {self._reader.folder}, which has {len(self)}"
            )
        return bisect_right(self._first_rows, row) - 1

    def _table(self, shard: int) -> NDArray[Any]:
        """All rows of a shard, as mapped; fixed sizes make them contiguous."""
        raw = self._reader.bytes_of(shard)
        if shard not in self._begins:
            offsets = self._reader.offsets(shard)
            if not (np.diff(offsets) == self._row_bytes).all():
                raise CorruptError(
                    f"shard {shard} of {self._reader.folder} must hold samples of "
                    f"{self._row_bytes} bytes each; mint the snapshot again"
                )
            self._begins[shard] = int(offsets[0])
        count = self._first_rows[shard + 1] - self._first_rows[shard]
        tokens = np.frombuffer(raw, self.dtype, count * (self.seq_len + 1), self._begins[shard])
        return tokens.reshape(count, -1)

    def _dtype(self) -> np.dtype[Any]:
        found = self._reader.column_sets()
        for bits in (16, 32):
            if found <= {(("tokens", f"ndarray:uint{bits}:{self.seq_len + 1}"),)}:
                return np.dtype(f"<u{bits // 8}")
        raise CorruptError(
            f"shards of {self._reader.folder} must have one column tokens of {self.seq_len + 1} "
            f"uint16 or uint32, found {sorted(found)}; is seq_len the lineage's?"
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
        body = reader.bytes_of(shard)
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
