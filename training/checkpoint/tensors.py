"""Tensors to and from a local file, every byte hashed on its way.

Plain safetensors in both directions. The library's own reader maps the file, which would verify one
reading and train on another; its writer neither flushes nor hashes.
"""

import hashlib
import mmap
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from storage.errors import CorruptError
from storage.manifest import digest_file
from training.checkpoint.pieces import (
    PIECE_BYTES,
    Slot,
    TensorFile,
    check_piece,
    check_root,
    in_threads,
    num_hash_threads,
    open_header,
    root_of,
    write_header,
)

_DTYPES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int16: "I16",
    torch.uint16: "U16",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.uint32: "U32",
    torch.float32: "F32",
    torch.int64: "I64",
    torch.uint64: "U64",
    torch.float64: "F64",
}
_TORCH_DTYPES = {name: dtype for dtype, name in _DTYPES.items()}
_HUGE_PAGE_BYTES = 2 << 20


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> TensorFile:
    """Write tensors of the host, durable on return; hashed in other threads meanwhile.

    The result is named as the file is, with its hash: ``model-<hash>.safetensors``.

    Raises:
        OSError: The disk is full, or failed; what was written is removed.
    """
    # Wide numbers first, so that each lies at a multiple of its own width.
    ordered = dict(sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0])))
    body, slots = write_header({n: (_DTYPES[t.dtype], tuple(t.shape)) for n, t in ordered.items()})
    parts = [memoryview(body)]
    for slot in slots:
        view = bytes_of(ordered[slot.name])
        parts += [view[n : n + PIECE_BYTES] for n in range(0, len(view), PIECE_BYTES)]
    try:
        # No more threads than the writing leaves free, as this one mostly waits for the disk.
        with ThreadPoolExecutor(num_hash_threads(), "hash") as pool:
            digests = pool.map(lambda part: hashlib.sha256(part).hexdigest(), parts)
            _write_durably(path, parts)
            pieces = tuple(digests)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    root = root_of(pieces)
    name = f"{path.stem}-{root[:16]}{path.suffix}"
    return TensorFile(name, sum(len(part) for part in parts), root, pieces, PIECE_BYTES)


def read_tensors(path: Path, file: TensorFile, key: str) -> dict[str, Tensor]:
    """The tensors of a local copy of ``file``: in memory of their own, every byte verified.

    Args:
        path: The copy.
        file: What the manifest promises.
        key: Of the object in the store, for messages.

    Raises:
        CorruptError: It is short or altered; names the tensor.
    """
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
        tensors = {slot.name: _empty(slot) for slot in slots}
        targets = {slot.name: (slot.start, bytes_of(tensors[slot.name])) for slot in slots}

        def fill(index: int) -> None:
            piece = pieces[index]
            start, view = targets[piece.tensor]
            part = view[piece.start - start : piece.stop - start]
            if _read_into(descriptor, part, piece.start) != len(part):
                raise CorruptError(f"{key} became shorter while it was read; fetch it again")
            if file.pieces:
                check_piece(key, file, index, piece, part)

        in_threads(fill, range(1, len(pieces)))
    finally:
        os.close(descriptor)
    return tensors


def bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor of the host, to read or to write."""
    numbers: Any = tensor.detach().reshape(-1).view(torch.uint8).numpy()
    return memoryview(numbers)


def _empty(slot: Slot) -> Tensor:
    """Memory for one tensor; in huge pages, which fault in several times faster."""
    dtype = _TORCH_DTYPES[slot.dtype]
    num_bytes = slot.stop - slot.start
    if num_bytes < _HUGE_PAGE_BYTES:
        return torch.empty(slot.shape, dtype=dtype)
    memory = mmap.mmap(-1, num_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).view(slot.shape)


def _read_into(descriptor: int, part: memoryview, start: int) -> int:
    """Fill ``part``; returns how many bytes there were."""
    done = 0
    while done < len(part):
        read = os.preadv(descriptor, [part[done:]], start + done)
        if not read:
            break
        done += read
    return done


def _write_durably(path: Path, parts: Iterable[memoryview]) -> None:
    with path.open("wb", buffering=0) as file:
        for part in parts:
            left = part
            while left:
                left = left[file.write(left) :]
        os.fsync(file.fileno())
