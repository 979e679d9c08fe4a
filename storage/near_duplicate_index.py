"""The index of near-duplicates: what a lineage has, as few sorted segments.

Each snapshot brings a segment of its own. Eight neighbours that are complete are merged into one,
eight of those again, so that a lookup visits some seven segments for each power of eight. A merge
is made of immutable files and found by the hash of what it was made of::

    lineages/<lineage>/near-duplicates/<id>/near-duplicates.bin, manifest.json

so nothing points at it and nothing waits for it: where one is missing, its parts are read.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from storage.errors import NotFoundError
from storage.file_cache import FileCache
from storage.head import Head
from storage.layout import Layout
from storage.manifest import FileDigest, digest_file, identity_of, load, publish
from storage.near_duplicate_segment import (
    Keys,
    Prints,
    Segment,
    SignatureScheme,
    merge_segments,
)
from storage.objects import ObjectStore
from storage.snapshots import read_snapshot_manifest

logger = logging.getLogger(__name__)

SEGMENT = "near-duplicates.bin"
"""Name of the segment among a snapshot's files, and of a merged one."""
MERGE_SIZES = (512, 64, 8)
"""Snapshots a merge, largest first; one of so many begins at a multiple of its size."""

Slots = tuple[str | None, ...]
"""Snapshots in the order in which the lineage came to know them, None where one does not count.

A snapshot that is refused leaves its slot empty, so that the merges of the others stay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeManifest:
    """Makes a merged segment exist."""

    id: str
    snapshots: tuple[str, ...]
    """Whose documents it has, in order."""
    file: FileDigest


@dataclass(frozen=True, slots=True)
class _Piece:
    """A stored segment: of a snapshot, or merged."""

    prefix: str
    file: FileDigest
    snapshots: tuple[str, ...]


def slots_of(head: Head | None) -> Slots:
    """The slots of a lineage: its snapshots, except those that were refused."""
    records = head.snapshots if head else ()
    return tuple(known.id if known.state != "refused" else None for known in records)


class NearDuplicateIndex:
    """The signatures of everything that a lineage knows.

    A document that was taken down stays in it, so that a copy is not let in again.

    Args:
        segments: Opened, of one scheme.
        unindexed: Snapshots that have no segment, because they were made without.
    """

    def __init__(self, segments: Sequence[Segment], unindexed: tuple[str, ...] = ()) -> None:
        self.segments, self.unindexed = tuple(segments), unindexed

    @property
    def num_documents(self) -> int:
        """Documents that are found."""
        return sum(segment.num_documents for segment in self.segments)

    def has(self, keys: Keys, prints: Prints, minimum: int) -> NDArray[np.bool_]:
        """Which signatures repeat a known document.

        Args:
            keys: Of the signatures.
            prints: Of the same.
            minimum: Equal bytes of two prints that make near-duplicates.
        """
        found = np.zeros(len(keys), np.bool_)
        for segment in self.segments:
            found |= segment.has(keys, prints, minimum)
        return found


def open_index(
    store: ObjectStore, layout: Layout, slots: Slots, scheme: SignatureScheme, cache: FileCache
) -> NearDuplicateIndex:
    """The index of the given snapshots; every byte of its segments is verified.

    Raises:
        CorruptError: A segment is missing or altered.
        NotFoundError: One of the snapshots does not exist.
        ValueError: A snapshot has signatures of another scheme.
    """
    pieces = _pieces(store, layout, slots)
    segments = [_open(store, piece, cache) for piece in _cover(store, layout, pieces)]
    for segment in segments:
        _check_scheme(segment, scheme)
    unindexed = tuple(
        slot for slot, piece in zip(slots, pieces, strict=True) if slot and piece is None
    )
    return NearDuplicateIndex(segments, unindexed)


def merge_complete(
    store: ObjectStore, layout: Layout, slots: Slots, *, cache: FileCache, work_dir: Path
) -> int:
    """Write the merges that are due; returns how many. Safe to retry after any crash.

    Each is made of the largest merges that there are, so a document is written once for each power
    of eight. Those it is made of become garbage.

    Args:
        store: Where the lineage lies.
        layout: Of the lineage.
        slots: All that count, as for ``open_index``.
        cache: Through which segments are read.
        work_dir: Existing local directory with room for the merged segment.
    """
    pieces = _pieces(store, layout, slots)
    num_merged = 0
    for start, size in _groups(len(pieces)):
        members = [piece for piece in pieces[start : start + size] if piece]
        if len(members) < 2 or _merged(store, layout, members) is not None:
            continue
        parts = _cover(store, layout, pieces[start : start + size])
        with TemporaryDirectory(dir=work_dir, prefix="merge-") as scratch:
            path = Path(scratch) / SEGMENT
            merge_segments(path, [_open(store, part, cache) for part in parts])
            _publish(store, layout, members, path)
        logger.info("merged the index of %d snapshots of %s", len(members), layout.lineage)
        num_merged += 1
    return num_merged


def live_merges(store: ObjectStore, layout: Layout, slots: Slots) -> set[str]:
    """Prefixes of the merges that ``open_index`` reads; all others are garbage."""
    if not any(store.list(layout.all_near_duplicates)):
        return set()
    cover = _cover(store, layout, _pieces(store, layout, slots))
    own = {layout.snapshot(slot) for slot in slots if slot}
    return {piece.prefix for piece in cover} - own


def _pieces(store: ObjectStore, layout: Layout, slots: Slots) -> list[_Piece | None]:
    """The segment of each slot, where there is one."""
    return [_piece_of(store, layout, slot) if slot else None for slot in slots]


def _piece_of(store: ObjectStore, layout: Layout, snapshot: str) -> _Piece | None:
    files = read_snapshot_manifest(store, layout, snapshot).files
    file = next((file for file in files if file.name == SEGMENT), None)
    return _Piece(layout.snapshot(snapshot), file, (snapshot,)) if file else None


def _groups(num_slots: int) -> Iterable[tuple[int, int]]:
    """First slot and size of the largest complete groups, in order."""
    start = 0
    while start < num_slots:
        size = next(
            (size for size in MERGE_SIZES if start % size == 0 and start + size <= num_slots), None
        )
        if size:
            yield start, size
        start += size or 1


def _cover(store: ObjectStore, layout: Layout, pieces: Sequence[_Piece | None]) -> list[_Piece]:
    """The fewest stored segments that have each piece once, in order."""
    cover: list[_Piece] = []
    start = 0
    while start < len(pieces):
        merged, size = _largest(store, layout, pieces, start)
        cover += merged
        start += size
    return cover


def _largest(
    store: ObjectStore, layout: Layout, pieces: Sequence[_Piece | None], start: int
) -> tuple[list[_Piece], int]:
    """The largest merge that is stored from ``start`` on, or the piece itself, and its slots."""
    for size in MERGE_SIZES:
        group = pieces[start : start + size]
        if start % size or len(group) < size:
            continue
        members = [piece for piece in group if piece]
        merged = _merged(store, layout, members) if len(members) > 1 else None
        if merged is not None:
            return [merged], size
    own = pieces[start]
    return [own] if own else [], 1


def _merge_id(members: Sequence[_Piece]) -> str:
    made_of = [(piece.snapshots, piece.file.sha256) for piece in members]
    return identity_of({"merge": 1, "segments": made_of})[:16]


def _merged(store: ObjectStore, layout: Layout, members: Sequence[_Piece]) -> _Piece | None:
    """The merge of ``members``, when it is stored."""
    prefix = layout.near_duplicates(_merge_id(members))
    try:
        manifest = load(store, f"{prefix}/manifest.json", MergeManifest)
    except NotFoundError:
        return None
    return _Piece(prefix, manifest.file, manifest.snapshots)


def _publish(store: ObjectStore, layout: Layout, members: Sequence[_Piece], path: Path) -> None:
    merge = _merge_id(members)
    prefix = layout.near_duplicates(merge)
    manifest = MergeManifest(
        id=merge,
        snapshots=tuple(name for piece in members for name in piece.snapshots),
        file=digest_file(path, SEGMENT),
    )
    store.put_file(f"{prefix}/{SEGMENT}", path, may_link=True)
    publish(store, f"{prefix}/manifest.json", manifest)


def _open(store: ObjectStore, piece: _Piece, cache: FileCache) -> Segment:
    mapped = cache.open(store, piece.prefix, piece.file)
    return Segment(memoryview(mapped), f"{piece.prefix}/{piece.file.name}")


def _check_scheme(segment: Segment, scheme: SignatureScheme) -> None:
    if segment.scheme == scheme:
        return
    differing = [
        f"{item.name} {getattr(segment.scheme, item.name)}, not {getattr(scheme, item.name)}"
        for item in fields(SignatureScheme)
        if getattr(segment.scheme, item.name) != getattr(scheme, item.name)
    ]
    raise ValueError(
        f"near_duplicates: snapshot {segment.parts[0].snapshot} was indexed with "
        f"{', '.join(differing)}, and signatures of two kinds cannot be compared; set it back, or "
        "start another lineage"
    )
