"""A piece of what a lineage knows, on this machine's disk: sorted keys, read where they lie.

It is derived from tables of documents and can be made of them at any time, so nothing is lost with
it. After 128 bytes of header::

    contents, held-out clusters, clusters to train on, paragraphs: for each of the four
        uint64[keys]    the first eight bytes of each key of 16, as a number, sorted
        uint64[keys]    the last eight bytes of the same

little-endian, without any key twice. The header has a SHA-256 of all that follows it, which is
checked each time a piece is opened, and tells what the piece was made of.
"""

import hashlib
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

_MAGIC = b"perennial known documents 2\n".ljust(32)
_DIGEST_BYTES = 32
_HEADER_BYTES = 128
_NUMBER = np.dtype("<u8")

Keys = NDArray[np.bytes_]
"""``S16[n]``."""


@dataclass(frozen=True, slots=True, eq=False)
class SortedKeys:
    """Keys of 16 bytes, each once, in order.

    As two numbers each, because numpy compares those several times as fast as bytes.
    """

    first: NDArray[np.uint64]
    last: NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.first)

    def has(self, key: bytes) -> bool:
        """Whether it is one of them."""
        wanted, last = int.from_bytes(key[:8], "big"), int.from_bytes(key[8:], "big")
        place = int(self.first.searchsorted(np.uint64(wanted)))
        while place < len(self.first) and self.first[place] == wanted:
            if self.last[place] == last:
                return True
            place += 1
        return False

    def has_all(self, wanted: "SortedKeys") -> NDArray[np.bool_]:
        """``bool[n]``: which of ``wanted``, in any order, are among them."""
        found = np.zeros(len(wanted), np.bool_)
        places = self.first.searchsorted(wanted.first)
        open_ones = np.flatnonzero(places < len(self.first))
        # Keys are hashes, so two rarely share eight bytes, and one turn is the rule.
        while len(open_ones):
            at = places[open_ones]
            same = self.first[at] == wanted.first[open_ones]
            hit = same & (self.last[at] == wanted.last[open_ones])
            found[open_ones[hit]] = True
            open_ones = open_ones[same & ~hit]
            places[open_ones] += 1
            open_ones = open_ones[places[open_ones] < len(self.first)]
        return found


@dataclass(frozen=True, slots=True, eq=False)
class KnownPiece:
    """What some snapshots hold."""

    contents: SortedKeys
    held_out: SortedKeys
    """Clusters that are never trained on."""
    trained_on: SortedKeys
    """Clusters of training documents."""
    paragraphs: SortedKeys
    """Of kept documents, in domains that have rules on them."""

    @property
    def kinds(self) -> tuple[SortedKeys, ...]:
        """All four, in the order of a file."""
        return self.contents, self.held_out, self.trained_on, self.paragraphs


def numbers_of(keys: Keys) -> SortedKeys:
    """``keys`` as numbers, in the order that they have."""
    both = np.ascontiguousarray(keys).view(">u8").reshape(-1, 2)
    return SortedKeys(both[:, 0].astype(_NUMBER), both[:, 1].astype(_NUMBER))


def sorted_keys(keys: Keys) -> SortedKeys:
    """``keys`` in order, each once."""
    # numpy sorts the bytes twice as fast as the numbers.
    return numbers_of(np.unique(keys))


def merged(pieces: Sequence[KnownPiece]) -> KnownPiece:
    """All pieces as one. Takes memory for one kind of key, some 60 bytes each."""
    return KnownPiece(
        _merged([piece.contents for piece in pieces]),
        _merged([piece.held_out for piece in pieces]),
        _merged([piece.trained_on for piece in pieces]),
        _merged([piece.paragraphs for piece in pieces]),
    )


def write_piece(path: Path, piece: KnownPiece, made_of: bytes) -> None:
    """Write a piece for others of this machine, unless one of them has just done so.

    Args:
        path: Of the file; what lies there is removed, and stays for those who have it open.
        piece: To be written.
        made_of: 32 bytes that tell what it was made of.
    """
    counts = np.array([len(keys) for keys in piece.kinds], _NUMBER).tobytes()
    head = (made_of + counts).ljust(_HEADER_BYTES - len(_MAGIC) - _DIGEST_BYTES, b"\0")
    digest = hashlib.sha256(head)
    arrays = [array for keys in piece.kinds for array in (keys.first, keys.last)]
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    try:
        file = path.open("xb")
    except FileExistsError:
        return
    with file:
        file.write(_MAGIC + digest.digest() + head)
        for array in arrays:
            file.write(np.ascontiguousarray(array).data)


def open_piece(path: Path, made_of: bytes) -> KnownPiece | None:
    """The piece at ``path``, mapped; None if there is none, or not the one that was written."""
    try:
        with path.open("rb") as file:
            return _opened(file, made_of)
    except FileNotFoundError:
        return None


def _opened(file: BinaryIO, made_of: bytes) -> KnownPiece | None:
    if file.seek(0, 2) < _HEADER_BYTES:
        return None
    data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    start = len(_MAGIC) + _DIGEST_BYTES
    counts = np.frombuffer(data, _NUMBER, 4, start + len(made_of)).tolist()
    is_whole = len(data) == _HEADER_BYTES + 16 * sum(counts)
    begins = bytes(data[:_HEADER_BYTES])
    is_wanted = begins.startswith(_MAGIC) and begins[start : start + len(made_of)] == made_of
    if not (is_whole and is_wanted):
        return None
    if hashlib.sha256(data[start:]).digest() != begins[len(_MAGIC) : start]:
        return None
    place = _HEADER_BYTES
    kinds: list[SortedKeys] = []
    for count in counts:
        first = np.frombuffer(data, _NUMBER, count, place)
        last = np.frombuffer(data, _NUMBER, count, place + 8 * count)
        kinds.append(SortedKeys(first, last))
        place += 16 * count
    return KnownPiece(*kinds)


def _merged(parts: Sequence[SortedKeys]) -> SortedKeys:
    return sorted_keys(np.concatenate([np.empty(0, "S16"), *map(_bytes_of, parts)]))


def _bytes_of(keys: SortedKeys) -> Keys:
    return np.stack([keys.first, keys.last], axis=1).astype(">u8").view("S16").ravel()
