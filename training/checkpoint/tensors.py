"""Tensors to and from a local file, every byte checked on its way.

Plain safetensors in both directions. The library's own reader maps the file, which would verify one
reading and train on another; its writer neither flushes nor hashes.
"""

import contextlib
import hashlib
import os
from collections.abc import Generator, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
import xxhash
from torch import Tensor

from storage.errors import CorruptError
from storage.manifest import digest_file
from training.checkpoint.fresh_memory import DTYPES, empty_tensors, make_resident
from training.checkpoint.pieces import (
    PIECE_BYTES,
    Digest,
    Piece,
    Slot,
    TensorFile,
    check_piece,
    check_root,
    in_threads,
    num_hash_threads,
    open_header,
    quick_digest,
    root_of,
    write_header,
)

_CHUNK_BYTES = 256 << 10
"""Stays in a core's cache between being read and being summed up."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> TensorFile:
    """Write tensors of the host, durable on return; hashed in other threads meanwhile.

    The result is named as the file is, with its hash: ``model-<hash>.safetensors``.

    Raises:
        OSError: The disk is full, or failed; what was written is removed.
    """
    # Wide numbers first, so that each lies at a multiple of its own width.
    ordered = dict(sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0])))
    body, slots = write_header({n: (DTYPES[t.dtype], tuple(t.shape)) for n, t in ordered.items()})
    parts = [memoryview(body)]
    for slot in slots:
        view = bytes_of(ordered[slot.name])
        parts += [view[n : n + PIECE_BYTES] for n in range(0, len(view), PIECE_BYTES)]
    try:
        # No more threads than the writing leaves free, as this one mostly waits for the disk.
        with ThreadPoolExecutor(num_hash_threads(), "hash") as pool:
            digests = pool.map(_digests_of, parts)
            _write_durably(path, parts)
            pieces, xxh3 = zip(*digests, strict=True)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    root = root_of(pieces)
    name = f"{path.stem}-{root[:16]}{path.suffix}"
    return TensorFile(name, sum(map(len, parts)), root, pieces, PIECE_BYTES, xxh3=xxh3)


def read_tensors(path: Path, file: TensorFile, key: str) -> dict[str, Tensor]:
    """The tensors of a local copy of ``file``: in memory of their own, every byte verified.

    Args:
        path: The copy.
        file: What the manifest promises.
        key: Of the object in the store, for messages.

    Raises:
        CorruptError: It is short or altered; names the tensor.
    """
    with _opened(path, file, key) as opened:
        tensors = empty_tensors(opened.slots)
        opened.read_into(tensors)
    return tensors


def read_each(path: Path, file: TensorFile, key: str) -> Generator[tuple[str, Tensor]]:
    """``read_tensors`` one after the other; memory has as many as the caller keeps, and one.

    Raises:
        CorruptError: The file is short, or the tensor whose turn it is was altered.
    """
    with _opened(path, file, key) as opened:
        for slot in opened.slots:
            tensors = empty_tensors([slot])
            opened.read_into(tensors)
            yield slot.name, tensors[slot.name]


@contextlib.contextmanager
def _opened(path: Path, file: TensorFile, key: str) -> Generator["_OpenFile"]:
    """A file of the right size, its header verified. Raises CorruptError."""
    check_root(key, file)
    size = path.stat().st_size
    if size != file.size:
        raise CorruptError(
            f"{key} has {size} bytes, its manifest promises {file.size}; restore it from a copy"
        )
    if not file.pieces and digest_file(path, file.name) != file.digest:
        raise CorruptError(
            f"{key} was altered: its manifest promises SHA-256 {file.sha256[:12]}; restore it "
            "from a copy"
        )
    descriptor = os.open(path, os.O_RDONLY)
    try:
        slots, pieces = open_header(file, key, lambda start, n: os.pread(descriptor, n, start))
        yield _OpenFile(descriptor, file, key, slots, pieces)
    finally:
        os.close(descriptor)


class _OpenFile(NamedTuple):
    descriptor: int
    file: TensorFile
    key: str
    slots: list[Slot]
    pieces: list[Piece]

    def read_into(self, tensors: Mapping[str, Tensor]) -> None:
        """Read the bytes of these tensors, verified. Raises CorruptError, which names one."""
        targets = {
            slot.name: (slot.start, bytes_of(tensors[slot.name]))
            for slot in self.slots
            if slot.name in tensors
        }

        def fill(index: int) -> None:
            piece = self.pieces[index]
            start, view = targets[piece.tensor]
            digest = quick_digest(self.file)
            part = view[piece.start - start : piece.stop - start]
            if not _read_into(self.descriptor, part, piece.start, digest):
                raise CorruptError(f"{self.key} became shorter while it was read; fetch it again")
            if self.file.pieces:
                check_piece(self.key, self.file, index, piece, digest)

        wanted = range(1, len(self.pieces))
        in_threads(fill, (index for index in wanted if self.pieces[index].tensor in targets))


def bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor of the host, to read or to write."""
    numbers: Any = tensor.detach().reshape(-1).view(torch.uint8).numpy()
    return memoryview(numbers)


def _read_into(descriptor: int, part: memoryview, start: int, digest: Digest) -> bool:
    """Fill ``part`` and sum it up on the way; whether there were enough bytes."""
    done = 0
    while done < len(part):
        chunk = part[done : done + _CHUNK_BYTES]
        make_resident(chunk)
        read = os.preadv(descriptor, [chunk], start + done)
        if not read:
            return False
        digest.update(chunk[:read])
        done += read
    return True


def _digests_of(part: memoryview) -> tuple[str, str]:
    """SHA-256 and XXH3-128 in hex, of bytes that are read from memory once."""
    sha256, xxh3 = hashlib.sha256(), xxhash.xxh3_128()
    for start in range(0, len(part), _CHUNK_BYTES):
        chunk = part[start : start + _CHUNK_BYTES]
        sha256.update(chunk)
        xxh3.update(chunk)
    return sha256.hexdigest(), xxh3.hexdigest()


def _write_durably(path: Path, parts: Iterable[memoryview]) -> None:
    """Write and flush; the disk begins while there is still more to write."""
    with path.open("wb", buffering=0) as file, ThreadPoolExecutor(1, "flush") as flusher:
        flush = flusher.submit(os.fdatasync, file.fileno())
        for part in parts:
            left = part
            while left:
                left = left[file.write(left) :]
            if flush.done():
                # The kernel tells of an error once: here, or at the end.
                flush.result()
                flush = flusher.submit(os.fdatasync, file.fileno())
        flush.result()
        os.fsync(file.fileno())
