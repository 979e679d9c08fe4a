"""A segment of the index of near-duplicates: immutable, sorted, read where it lies.

One is a file of each snapshot; others are several of those merged into one. After a header::

    rows        uint32[documents]                in the snapshot's table of documents
    prints      uint8[documents, permutations]   a byte of each minimum, by which two are compared
    for each band:
        keys        uint32[documents]            sorted
        ordinals    uint32[documents]            which document has the key

little-endian, each array at a multiple of 64 bytes. It holds no text, and none can be made of it.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from storage.errors import CorruptError
from storage.manifest import canonical_json
from storage.rebuild import rebuild

_MAGIC = b"perennial near-duplicates 1\n"
_LENGTH_BYTES = 4
_ALIGNMENT = 64
_CHUNK_DOCUMENTS = 1 << 16
_KEY, _ROW = np.dtype("<u4"), np.dtype("<u4")

Keys = NDArray[np.uint32]
"""``uint32[documents, bands]``: a hash of each band of each signature."""
Prints = NDArray[np.uint8]
"""``uint8[documents, permutations]``: a byte of each minimum of each signature."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignatureScheme:
    """How signatures are made: those of two schemes cannot be compared."""

    method: int
    """Of cutting and hashing; raised when the same text gives another signature than before."""
    ngram: int
    """Words, or characters of scripts without spaces, a shingle."""
    bands: int
    rows: int
    """Minima a band."""
    seed: int

    @property
    def permutations(self) -> int:
        """Minima a signature."""
        return self.bands * self.rows


@dataclass(frozen=True, slots=True)
class SegmentPart:
    """The documents that a segment has of one snapshot, in the order of its table."""

    snapshot: str
    documents: int


@dataclass(frozen=True, slots=True)
class _Header:
    scheme: SignatureScheme
    parts: tuple[SegmentPart, ...]


class Segment:
    """An opened segment.

    Args:
        data: Its bytes, verified, which have to stay; nothing is copied.
        key: Names it in errors.

    Raises:
        CorruptError: It is of another form.
    """

    def __init__(self, data: "memoryview | bytes", key: str) -> None:
        header, start = _read_header(data, key)
        self.key, self.scheme, self.parts = key, header.scheme, header.parts
        self.num_documents = sum(part.documents for part in header.parts)
        if len(data) != start + _size_of(header.scheme, self.num_documents):
            raise CorruptError(
                f"{key} should have {start + _size_of(header.scheme, self.num_documents):,} bytes "
                f"for {self.num_documents:,} documents, found {len(data):,}; restore it from a copy"
            )
        count, permutations = self.num_documents, header.scheme.permutations
        self.rows = np.frombuffer(data, _ROW, count, start)
        start += _padded(self.rows.nbytes)
        prints = np.frombuffer(data, np.uint8, count * permutations, start)
        self.prints: Prints = prints.reshape(count, permutations)
        self._data, self._bands_start = data, start + _padded(prints.nbytes)

    def band(self, number: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
        """Sorted keys of a band, and the document (counted over all parts) that has each."""
        count, padded = self.num_documents, _padded(self.num_documents * _KEY.itemsize)
        start = self._bands_start + 2 * number * padded
        keys = np.frombuffer(self._data, _KEY, count, start)
        return keys, np.frombuffer(self._data, _KEY, count, start + padded)

    @cached_property
    def bands(self) -> NDArray[np.uint32]:
        """``uint32[bands, 2, padded documents]``: keys and ordinals, the padding at the end."""
        per_array = _padded(self.num_documents * _KEY.itemsize) // _KEY.itemsize
        count = self.scheme.bands * 2 * per_array
        flat = np.frombuffer(self._data, _KEY, count, self._bands_start)
        return flat.reshape(self.scheme.bands, 2, per_array)

    def has(self, keys: Keys, prints: Prints, minimum: int) -> NDArray[np.bool_]:
        """Which signatures repeat one of this segment.

        Args:
            keys: Of the signatures that are looked up.
            prints: Of the same.
            minimum: Bytes of the prints that must be equal, of those that share a band.
        """
        # Not at the top: it imports numba, which most processes that read a segment never need.
        from storage.near_duplicate_search import search  # noqa: PLC0415

        found = np.zeros(len(keys), np.bool_)
        if self.num_documents:
            search(self.bands, self.prints, keys, prints, minimum, found)
        return found

    def places(
        self, keys: NDArray[np.uint32], prints: NDArray[np.uint8], minimum: int
    ) -> list[tuple[str, int, int]]:
        """Which documents one signature repeats: snapshot, row of its table, equal bytes.

        Args:
            keys: ``uint32[bands]``, of the signature that is looked up.
            prints: ``uint8[permutations]``, of the same.
            minimum: Bytes of the prints that must be equal, of those that share a band.
        """
        sharing: set[int] = set()
        for number in range(self.scheme.bands):
            band_keys, ordinals = self.band(number)
            first = np.searchsorted(band_keys, keys[number], "left")
            last = np.searchsorted(band_keys, keys[number], "right")
            sharing.update(ordinals[first:last].tolist())
        ends = np.cumsum([part.documents for part in self.parts])
        found: list[tuple[str, int, int]] = []
        for ordinal in sorted(sharing):
            equal = int((self.prints[ordinal] == prints).sum())
            if equal >= minimum:
                part = self.parts[int(np.searchsorted(ends, ordinal, "right"))]
                found.append((part.snapshot, int(self.rows[ordinal]), equal))
        return found


def write_segment(
    path: Path,
    scheme: SignatureScheme,
    snapshot: str,
    *,
    rows: NDArray[np.uint32],
    keys: Keys,
    prints: Prints,
) -> None:
    """Write the segment of one snapshot; the same documents give the same bytes.

    Args:
        path: Of the local file.
        scheme: Of the signatures.
        snapshot: Whose documents they are.
        rows: ``uint32[documents]``, of its table of documents.
        keys: Of the same documents.
        prints: Of the same documents.
    """
    header = _Header(scheme, (SegmentPart(snapshot, len(rows)),))
    bands = (_sorted_band(keys[:, band]) for band in range(scheme.bands))
    _write(path, header, [rows], _chunks([prints]), bands)


def merge_segments(path: Path, segments: Sequence[Segment]) -> None:
    """Write segments of one scheme as one. Takes memory for one band, 24 bytes a document.

    Args:
        path: Of the local file.
        segments: In the order of their snapshots.

    Raises:
        ValueError: They are of several schemes.
    """
    schemes = {segment.scheme for segment in segments}
    if len(schemes) != 1:
        raise ValueError(f"segments of {len(schemes)} schemes cannot be merged: {schemes}")
    scheme = segments[0].scheme
    header = _Header(scheme, tuple(part for segment in segments for part in segment.parts))
    bands = (_merged_band(segments, band) for band in range(scheme.bands))
    prints = _chunks([segment.prints for segment in segments])
    _write(path, header, [segment.rows for segment in segments], prints, bands)


def _sorted_band(keys: NDArray[np.uint32]) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """The keys of a band in order, equal ones by document."""
    # One integer of both sorts several times faster than an argsort, and has no ties.
    both = keys.astype(np.uint64) << np.uint64(32) | np.arange(len(keys), dtype=np.uint64)
    both.sort()
    return (both >> np.uint64(32)).astype(_KEY), both.astype(_KEY)


def _merged_band(
    segments: Sequence[Segment], band: int
) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    pieces: list[NDArray[np.uint64]] = []
    first = 0
    for segment in segments:
        keys, ordinals = segment.band(band)
        document = ordinals.astype(np.uint64) + np.uint64(first)
        pieces.append(keys.astype(np.uint64) << np.uint64(32) | document)
        first += segment.num_documents
    both = np.concatenate(pieces)
    both.sort()
    return (both >> np.uint64(32)).astype(_KEY), both.astype(_KEY)


def _chunks(arrays: Iterable[Prints]) -> Iterator[Prints]:
    for array in arrays:
        for start in range(0, len(array), _CHUNK_DOCUMENTS):
            yield array[start : start + _CHUNK_DOCUMENTS]


def _write(
    path: Path,
    header: _Header,
    rows: Sequence[NDArray[np.uint32]],
    prints: Iterable[Prints],
    bands: Iterable[tuple[NDArray[np.uint32], NDArray[np.uint32]]],
) -> None:
    text = canonical_json(asdict(header))
    with path.open("wb") as file:
        file.write(_MAGIC + len(text).to_bytes(_LENGTH_BYTES, "little") + text)
        _pad(file)
        for array in rows:
            file.write(array.astype(_ROW).tobytes())
        _pad(file)
        for chunk in prints:
            file.write(np.ascontiguousarray(chunk).data)
        _pad(file)
        for band in bands:
            for array in band:
                file.write(np.ascontiguousarray(array).data)
                _pad(file)


def _pad(file: BinaryIO) -> None:
    file.write(bytes(-file.tell() % _ALIGNMENT))


def _padded(num_bytes: int) -> int:
    return num_bytes + -num_bytes % _ALIGNMENT


def _size_of(scheme: SignatureScheme, documents: int) -> int:
    """Bytes of a segment without its header."""
    one_array = _padded(documents * _KEY.itemsize)
    return one_array + _padded(documents * scheme.permutations) + 2 * scheme.bands * one_array


def _read_header(data: "memoryview | bytes", key: str) -> tuple[_Header, int]:
    """The header, and where the first array starts."""
    start = len(_MAGIC) + _LENGTH_BYTES
    length = int.from_bytes(bytes(data[len(_MAGIC) : start]), "little")
    if bytes(data[: len(_MAGIC)]) != _MAGIC or start + length > len(data):
        raise CorruptError(
            f"{key} is no segment of an index of near-duplicates: it starts with "
            f"{bytes(data[:16])!r}, expected {_MAGIC!r}; restore it from a copy"
        )
    try:
        fields = cast("object", json.loads(bytes(data[start : start + length])))
    except ValueError as error:
        raise CorruptError(f"{key} has no readable header ({error}); restore it") from error
    return rebuild(fields, key, _Header), _padded(start + length)
