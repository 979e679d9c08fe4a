"""Tensor files cut into pieces that are each verified alone. Needs no torch.

A tensor file is plain safetensors. Its header is the first piece; every tensor is one piece, or
several when it is large. The manifest has two digests of each piece, so that threads verify them
side by side, each byte once, while it is read, and damage is told by the tensor's name:

* SHA-256, by which the file is known and named: its own is that of its pieces' digests, a tree of
  two levels. Looked at when a checkpoint in a store is checked where it lies.
* XXH3-128, as fast as memory: looked at when a state is restored. Of accidents it misses one in
  2^128. It is no protection against who can write to the store, and neither is the other: the
  manifest has both.

What a file says of itself (its header) is looked at only after its digest was checked.
"""

import hashlib
import json
import math
import os
import struct
import zlib
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import xxhash

from storage.errors import CorruptError, NotFoundError
from storage.manifest import FileDigest, check_stored
from storage.objects import ObjectStore

PIECE_BYTES = 8 << 20
_MAX_THREADS = 8
_MAX_HEADER_BYTES = 100 << 20
"""As the safetensors library has it."""
_HEADER = "the header"
_DTYPE_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 2),
    **dict.fromkeys(("I32", "U32", "F32"), 4),
    **dict.fromkeys(("I64", "U64", "F64"), 8),
}


@dataclass(frozen=True, slots=True)
class TensorFile:
    """One file of tensors, as a manifest promises it."""

    name: str
    """Key relative to the prefix the manifest lies under."""
    size: int
    """Bytes."""
    sha256: str
    """Hex; of the pieces' digests joined. Of the whole file when there are no pieces."""
    pieces: tuple[str, ...] = ()
    """Hex SHA-256 of each, in their order. None in a checkpoint of format 1."""
    piece_bytes: int = PIECE_BYTES
    """Largest piece of a tensor."""
    crc32: tuple[str, ...] = ()
    """8 hex digits for each piece, in their order. In checkpoints of format 3 alone."""
    xxh3: tuple[str, ...] = ()
    """Hex XXH3-128 of each piece, in their order. None before format 4."""

    @property
    def digest(self) -> FileDigest:
        """Name, size and hash alone."""
        return FileDigest(self.name, self.size, self.sha256)


class Digest(Protocol):
    """What is fed with bytes and sums them up, as hashlib has it."""

    @property
    def name(self) -> str:
        """Of the algorithm."""
        ...

    def update(self, body: Any, /) -> None:
        """Add bytes."""
        ...

    def hexdigest(self) -> str:
        """Of all bytes so far."""
        ...


class Crc32:
    """CRC-32 with the polynomial of zlib, in 8 hex digits."""

    name = "crc32"

    def __init__(self) -> None:
        self._value = 0

    def update(self, body: Any, /) -> None:
        """Add bytes."""
        self._value = zlib.crc32(body, self._value)

    def hexdigest(self) -> str:
        """Of all bytes so far."""
        return f"{self._value:08x}"


class Slot(NamedTuple):
    """Where a tensor lies in its file."""

    name: str
    dtype: str
    """As safetensors spells it."""
    shape: tuple[int, ...]
    start: int
    """Bytes from the beginning of the file."""
    stop: int


class Piece(NamedTuple):
    """Bytes of a file that one digest stands for."""

    tensor: str
    start: int
    """Bytes from the beginning of the file."""
    stop: int


Header = dict[str, tuple[str, tuple[int, ...]]]
"""Dtype, as safetensors spells it, and shape of each tensor, in the order in which they lie."""


def write_header(tensors: Header) -> tuple[bytes, list[Slot]]:
    """The first bytes of a file of ``tensors``, and where each of them goes."""
    offset = 0
    fields: dict[str, Any] = {}
    for name, (dtype, shape) in tensors.items():
        end = offset + math.prod(shape) * _DTYPE_BYTES[dtype]
        fields[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(fields, separators=(",", ":")).encode()
    # Tensors begin at a multiple of 8, as the format asks.
    text += b" " * (-len(text) % 8)
    body = struct.pack("<Q", len(text)) + text
    return body, read_header(body, "a new file")


def read_header(body: bytes, key: str) -> list[Slot]:
    """Where each tensor of a file lies; ``body`` holds its header, and may hold more.

    Raises:
        CorruptError: It is no header of safetensors, or its tensors do not lie side by side.
    """
    try:
        (length,) = struct.unpack_from("<Q", body)
        fields = json.loads(body[8 : 8 + length])
        fields.pop("__metadata__", None)
        slots = sorted((_slot(name, row, 8 + length) for name, row in fields.items()), key=_start)
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptError(f"{key} has no header of safetensors ({error!r})") from error
    for slot, following in pairwise([Slot("", "", (), 8 + length, 8 + length), *slots]):
        if following.start != slot.stop:
            raise CorruptError(f"{key}: the tensor {following.name} does not follow {slot.name}")
    return slots


def pieces_of(header_bytes: int, slots: Iterable[Slot], piece_bytes: int) -> list[Piece]:
    """How a file is cut: its header, then every tensor into pieces of at most ``piece_bytes``."""
    return [Piece(_HEADER, 0, header_bytes)] + [
        Piece(slot.name, start, min(start + piece_bytes, slot.stop))
        for slot in slots
        for start in range(slot.start, slot.stop, piece_bytes)
    ]


def root_of(pieces: Iterable[str]) -> str:
    """The file's digest, of its pieces' digests in hex."""
    return hashlib.sha256("".join(pieces).encode()).hexdigest()


def num_hash_threads() -> int:
    """Threads that hash pieces side by side; hashing lets other Python threads run."""
    return min(_MAX_THREADS, os.cpu_count() or 1)


def open_header(
    file: TensorFile, key: str, read: Callable[[int, int], bytes]
) -> tuple[list[Slot], list[Piece]]:
    """Slots and pieces of a stored file, its header verified; ``read(start, length)`` reads it.

    Raises:
        CorruptError: The header was altered.
    """
    prefix = read(0, 8)
    length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
    if length > min(_MAX_HEADER_BYTES, max(0, file.size - 8)):
        raise altered(key, _HEADER, file)
    body = prefix + read(8, length)
    if file.pieces:
        check_piece(key, file, 0, Piece(_HEADER, 0, len(body)), hashlib.sha256(body))
    slots = read_header(body, key)
    pieces = pieces_of(len(body), slots, file.piece_bytes)
    counts = {len(digests) for digests in (file.pieces, file.crc32, file.xxh3) if digests}
    if counts and (counts != {len(pieces)} or pieces[-1].stop != file.size):
        raise altered(key, _HEADER, file)
    return slots, pieces


def quick_digest(file: TensorFile) -> Digest:
    """The quickest for ``check_piece`` that the manifest has."""
    if file.xxh3:
        return xxhash.xxh3_128()
    return Crc32() if file.crc32 else hashlib.sha256()


def check_piece(key: str, file: TensorFile, index: int, piece: Piece, found: Digest) -> None:
    """Compare what was found with the manifest. Raises CorruptError, which names the tensor."""
    promised = {"XXH3_128": file.xxh3, "crc32": file.crc32, "sha256": file.pieces}[found.name]
    if found.hexdigest() != promised[index]:
        raise altered(key, piece.tensor, file)


def altered(key: str, tensor: str, file: TensorFile) -> CorruptError:
    """What to say of a piece whose digest is another."""
    what = tensor if tensor == _HEADER else f"tensor {tensor}"
    return CorruptError(
        f"{key} was altered in {what}: its manifest promises other bytes of this file of "
        f"{file.size}; restore it from a copy"
    )


def check_root(key: str, file: TensorFile) -> None:
    """Check that the pieces' digests are the file's. Raises CorruptError."""
    if file.pieces and root_of(file.pieces) != file.sha256:
        raise CorruptError(f"the manifest of {key} was altered: its pieces are not the file's")


def check_stored_file(store: ObjectStore, prefix: str, file: TensorFile) -> None:
    """Check a stored file's every byte, piece by piece, keeping none.

    Raises:
        NotFoundError: It is missing.
        CorruptError: It is short or altered; names the tensor.
    """
    if not file.pieces:
        check_stored(store, prefix, file.digest)
        return
    key = f"{prefix}/{file.name}"
    _check_by_sha256(file, key, lambda start, n: store.get(key, start=start, length=n))


def check_local_file(folder: Path, file: TensorFile) -> None:
    """Check a local file's every byte, as ``check_stored_file`` does.

    Raises:
        NotFoundError: It is missing.
        CorruptError: It is short or altered; names the tensor.
    """
    path = folder / file.name
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} is missing") from error
    try:
        _check_by_sha256(file, str(path), lambda start, n: os.pread(descriptor, n, start))
    finally:
        os.close(descriptor)


def _check_by_sha256(file: TensorFile, key: str, read: Callable[[int, int], bytes]) -> None:
    check_root(key, file)
    _, pieces = open_header(file, key, read)

    def check(index: int) -> None:
        piece = pieces[index]
        body = read(piece.start, piece.stop - piece.start)
        check_piece(key, file, index, piece, hashlib.sha256(body))

    in_threads(check, range(1, len(pieces)))


def in_threads(fn: Callable[[int], None], indexes: Iterable[int]) -> None:
    """``fn`` of each, several at once; after the first failure, which is raised, none is begun."""
    todo = deque(indexes)

    def work() -> None:
        # Not a future for each: with thousands of pieces they take the threads' turns at Python.
        while True:
            try:
                index = todo.popleft()
            except IndexError:
                return
            try:
                fn(index)
            except BaseException:
                todo.clear()
                raise

    with ThreadPoolExecutor(num_hash_threads(), thread_name_prefix="verify") as pool:
        for thread in [pool.submit(work) for _ in range(num_hash_threads())]:
            thread.result()


def _slot(name: str, row: dict[str, Any], base: int) -> Slot:
    start, stop = row["data_offsets"]
    shape = tuple(row["shape"])
    if math.prod(shape) * _DTYPE_BYTES[row["dtype"]] != stop - start:
        raise ValueError(f"{name} of shape {shape} has {stop - start} bytes")
    return Slot(name, row["dtype"], shape, base + start, base + stop)


def _start(slot: Slot) -> tuple[int, int]:
    # An empty tensor lies before the one that begins where it does.
    return slot.start, slot.stop
