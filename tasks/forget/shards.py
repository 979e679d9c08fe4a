"""Shards without the documents that are forgotten.

Training rows keep their places: where a document was, the token stands that opens documents. It is
never a target there and no document sees it, so nothing is learned from it, as from the padding at
the end of a domain (``training.loss``). Numbers of samples, their order and what an update has seen
stay what they were. Held-out documents are taken out of their shards.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.errors import CorruptError
from storage.file_cache import FileCache
from storage.manifest import FileDigest, digest_file, read_verified
from storage.objects import ObjectStore
from storage.revised import file_named, revised_name
from storage.snapshots import SnapshotManifest
from storage.takedowns import ForgottenDocument
from tasks.forget.texts import stream_of
from training.data.shards import INDEX, MdsReader, TrainShards, read_holdout

_COUNT_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewritten:
    """The files of one folder that were rewritten."""

    old: tuple[FileDigest, ...]
    new: tuple[FileDigest, ...]
    """Lie below the local directory under their names."""


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder of shards of a snapshot, and where its files are rewritten."""

    store: ObjectStore
    prefix: str
    manifest: SnapshotManifest
    name: str
    """Such as ``web/train``."""
    takedown: str
    cache: FileCache
    directory: Path
    """Local; stands for the snapshot's prefix."""

    def reader(self) -> MdsReader:
        """Reads it as it is."""
        return MdsReader(self.store, self.prefix, self.name, self.manifest.files, self.cache)

    def rewritten(self, shards: dict[str, bytes | None]) -> Rewritten:
        """The folder with other bytes, or none, for some shards, by their base names."""
        owner = f"snapshot {self.manifest.id}"
        old_index = file_named(self.manifest.files, f"{self.name}/{INDEX}", owner)
        index = json.loads(read_verified(self.store, self.prefix, old_index))
        kept: list[dict[str, Any]] = []
        old, new = [old_index], list[FileDigest]()
        by_name = {file.name: file for file in self.manifest.files}
        for shard in index["shards"]:
            base = shard["raw_data"]["basename"]
            if base in shards:
                old.append(by_name[f"{self.name}/{base}"])
                body = shards[base]
                if body is None:
                    continue
                name = revised_name(base, self.takedown)
                new.append(self._write(name, body))
                count = int.from_bytes(body[:_COUNT_BYTES], "little")
                raw = {**shard["raw_data"], "basename": name, "bytes": len(body)}
                shard = {**shard, "raw_data": raw, "samples": count}
            kept.append(shard)
        if kept:
            body = json.dumps({**index, "shards": kept}, sort_keys=True).encode()
            new.append(self._write(revised_name(INDEX, self.takedown), body))
        return Rewritten(old=tuple(old), new=tuple(new))

    def _write(self, base: str, body: bytes) -> FileDigest:
        path = self.directory / self.name / base
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        return digest_file(path, f"{self.name}/{base}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Blanked:
    """A folder of training rows without some documents."""

    files: Rewritten
    tokens: NDArray[np.int64]
    """How often each token stood in them as a target, ``int64[vocab_size]``."""


def blank_training(folder: Folder, documents: Sequence[ForgottenDocument]) -> Blanked:
    """Write start tokens over ``documents`` of a folder of training rows.

    Raises:
        CorruptError: A shard is missing or altered.
    """
    manifest, reader = folder.manifest, folder.reader()
    shards = TrainShards(reader, seq_len=manifest.seq_len)
    counts = np.zeros(manifest.vocab_size, np.int64)
    closing = int(manifest.start_id != manifest.end_id)
    blanks: dict[int, list[tuple[int, int]]] = {}
    for one in documents:
        start, end = one.first_token, one.first_token + one.tokens
        text = stream_of(shards, start + 1, end - closing)
        counts += np.bincount(text, minlength=manifest.vocab_size)
        # Its end of text was to be predicted as well.
        counts[manifest.end_id] += 1
        for row, first, last in cells(start, end, manifest.seq_len, len(shards)):
            blanks.setdefault(row, []).append((first, last))
    bodies: dict[str, bytes | None] = {}
    for number in sorted({shards.shard_of(row) for row in blanks}):
        first_row, end_row = reader.first_rows[number : number + 2].tolist()
        body = np.frombuffer(reader.bytes_of(number), np.uint8).copy()
        offsets = reader.offsets(number)
        table = body[offsets[0] :].view(shards.dtype).reshape(end_row - first_row, -1)
        for row in range(first_row, end_row):
            for first, last in blanks.get(row, ()):
                table[row - first_row, first:last] = manifest.start_id
        bodies[reader.basename(number)] = body.tobytes()
    return Blanked(files=folder.rewritten(bodies), tokens=counts)


def cells(start: int, end: int, seq_len: int, num_rows: int) -> Iterator[tuple[int, int, int]]:
    """Where tokens ``start`` to ``end`` of a stream stand: row, first column, end column; pure.

    The first token of a row stands at the end of the row before as well.
    """
    for row in range(max(0, (start - 1) // seq_len), min(end // seq_len + 1, num_rows)):
        first = max(start - row * seq_len, 0)
        last = min(end - row * seq_len, seq_len + 1)
        if first < last:
            yield row, first, last


def drop_held_out(folder: Folder, documents: Sequence[ForgottenDocument]) -> Rewritten:
    """Take ``documents`` out of a folder of held-out ones.

    Raises:
        CorruptError: A shard is missing or altered.
    """
    names = {one.document for one in documents}
    reader = folder.reader()
    rows = iter(read_holdout(reader, token_dtype=folder.manifest.token_dtype))
    bodies: dict[str, bytes | None] = {}
    for number in range(reader.num_shards):
        offsets = reader.offsets(number).tolist()
        keep = [next(rows).document not in names for _ in offsets[:-1]]
        if not all(keep):
            bodies[reader.basename(number)] = _without(
                bytes(reader.bytes_of(number)), offsets, keep
            )
    if not bodies:
        raise CorruptError(
            f"none of {len(names)} held-out documents to be forgotten stands in {folder.prefix}/"
            f"{folder.name}; the table of documents says they do, restore it from a copy"
        )
    return folder.rewritten(bodies)


def _without(body: bytes, offsets: Sequence[int], keep: Sequence[bool]) -> bytes | None:
    """A shard with some of its samples; None when none is left."""
    header = body[_COUNT_BYTES * (len(offsets) + 1) : offsets[0]]
    samples = [
        body[first:last]
        for (first, last), kept in zip(pairwise(offsets), keep, strict=True)
        if kept
    ]
    if not samples:
        return None
    begin = _COUNT_BYTES * (len(samples) + 2) + len(header)
    ends = np.cumsum([begin, *map(len, samples)])
    numbers = np.array([len(samples), *ends], "<u4").tobytes()
    return b"".join((numbers, header, *samples))
