"""The index of near-duplicates: what a lineage has, as few sorted segments.

Each snapshot brings a segment of its own. Eight neighbours that are complete are merged into one,
eight of those again, so that a lookup visits some seven segments for each power of eight. A merge
is made of immutable files and found by the hash of the snapshots that it is made of::

    lineages/<lineage>/near-duplicates/<id>/near-duplicates.bin, manifest.json

so nothing points at it and nothing waits for it: where one is missing, its parts are read.
"""

import logging
from collections.abc import Iterator, Sequence
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
from storage.takedowns import signatures_kept_out

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


def slots_of(head: Head | None) -> Slots:
    """The slots of a lineage: its snapshots, except those that were refused."""
    records = head.snapshots if head else ()
    return tuple(known.id if known.state != "refused" else None for known in records)


class NearDuplicateIndex:
    """The signatures of everything that a lineage knows.

    A document that was taken down stays in it, so that a copy is not let in again.

    Args:
        segments: Opened, of one scheme.
    """

    def __init__(self, segments: Sequence[Segment]) -> None:
        self.segments = tuple(segments)

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

    def places(
        self, keys: NDArray[np.uint32], prints: NDArray[np.uint8], minimum: int
    ) -> list[tuple[str, int, int]]:
        """Which known documents one signature repeats, see ``Segment.places``."""
        return [
            place for segment in self.segments for place in segment.places(keys, prints, minimum)
        ]


def open_index(
    store: ObjectStore, layout: Layout, slots: Slots, scheme: SignatureScheme, cache: FileCache
) -> NearDuplicateIndex:
    """The index of those of the given snapshots that have one, and of what was taken down.

    Every byte is verified.

    Raises:
        CorruptError: A segment is missing or altered.
        NotFoundError: One of the snapshots does not exist.
        ValueError: A snapshot has signatures of another scheme.
    """
    # Also of texts that no snapshot has that counts.
    taken_down = [_Piece(layout.takedowns, file) for file in signatures_kept_out(store, layout)]
    pieces = [*_cover(store, layout, slots), *taken_down]
    segments = [_open(store, piece, cache) for piece in pieces]
    for segment in segments:
        _check_scheme(segment, scheme)
    return NearDuplicateIndex(segments)


def unindexed(store: ObjectStore, layout: Layout, slots: Slots) -> list[str]:
    """Snapshots that have no segment, because near-duplicates were not looked for then."""
    walked = _walk(store, layout, slots)
    return [slot for slot, piece in walked if slot and piece is None]


def add_segment(store: ObjectStore, layout: Layout, snapshot: str, path: Path) -> None:
    """Give a snapshot that has none a segment; kept as a merge of one. Safe to retry."""
    _publish(store, layout, (snapshot,), path)


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
    num_merged = 0
    for start, size in _groups(len(slots)):
        group = slots[start : start + size]
        if _merge_of(store, layout, group) is not None:
            continue
        parts = _cover(store, layout, group)
        # What is merged stays so, with what it lacks.
        if len(parts) < 2 or unindexed(store, layout, group):
            continue
        with TemporaryDirectory(dir=work_dir, prefix="merge-") as scratch:
            path = Path(scratch) / SEGMENT
            merge_segments(path, [_open(store, part, cache) for part in parts])
            _publish(store, layout, group, path)
        logger.info("merged %d segments of the index of %s", len(parts), layout.lineage)
        num_merged += 1
    return num_merged


def live_merges(store: ObjectStore, layout: Layout, slots: Slots) -> set[str]:
    """Prefixes of the merges that ``open_index`` reads; all others are garbage."""
    if not any(store.list(layout.all_near_duplicates)):
        return set()
    own = {layout.snapshot(slot) for slot in slots if slot}
    return {piece.prefix for piece in _cover(store, layout, slots)} - own


def _groups(num_slots: int) -> Iterator[tuple[int, int]]:
    """First slot and size of the largest complete groups, in order."""
    start = 0
    while start < num_slots:
        size = next(
            (size for size in MERGE_SIZES if start % size == 0 and start + size <= num_slots), 1
        )
        if size > 1:
            yield start, size
        start += size


def _cover(store: ObjectStore, layout: Layout, slots: Slots) -> list[_Piece]:
    """The fewest stored segments that have each snapshot once, in order."""
    return [piece for _, piece in _walk(store, layout, slots) if piece]


def _walk(
    store: ObjectStore, layout: Layout, slots: Slots
) -> Iterator[tuple[str | None, _Piece | None]]:
    """The largest stored segments in order, each with the slot that it begins at."""
    start = 0
    while start < len(slots):
        piece, size = _largest(store, layout, slots, start)
        yield slots[start], piece
        start += size


def _largest(
    store: ObjectStore, layout: Layout, slots: Slots, start: int
) -> tuple[_Piece | None, int]:
    """The largest stored segment that begins at ``start``, if there is one, and its slots."""
    for size in MERGE_SIZES:
        group = slots[start : start + size]
        if start % size == 0 and len(group) == size:
            merge = _merge_of(store, layout, group)
            if merge is not None:
                return merge, size
    slot = slots[start]
    return (_own_of(store, layout, slot) if slot else None), 1


def _own_of(store: ObjectStore, layout: Layout, snapshot: str) -> _Piece | None:
    """The segment of one snapshot: among its files, or added later."""
    files = read_snapshot_manifest(store, layout, snapshot).files
    file = next((file for file in files if file.name == SEGMENT), None)
    if file is None:
        return _merge_of(store, layout, (snapshot,))
    return _Piece(layout.snapshot(snapshot), file)


def _merge_of(store: ObjectStore, layout: Layout, group: Slots) -> _Piece | None:
    """The merge of a group, when it is stored."""
    prefix = layout.near_duplicates(_merge_id(group))
    try:
        manifest = load(store, f"{prefix}/manifest.json", MergeManifest)
    except NotFoundError:
        return None
    return _Piece(prefix, manifest.file)


def _merge_id(group: Slots) -> str:
    # An id of a snapshot stands for its content, of which it can have but one.
    return identity_of({"merge": 1, "snapshots": [slot for slot in group if slot]})[:16]


def _publish(store: ObjectStore, layout: Layout, group: Slots, path: Path) -> None:
    merge = _merge_id(group)
    prefix = layout.near_duplicates(merge)
    manifest = MergeManifest(
        id=merge,
        snapshots=tuple(slot for slot in group if slot),
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
