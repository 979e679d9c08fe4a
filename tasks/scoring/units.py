"""Slices of the suite in units: which documents are scored together, in a fixed order.

The clusters of a slice are put in the order of a hash and dealt out to units of about
``UNIT_TOKENS``, so that the first units of a slice are a sample of its clusters, and a smaller
sample is a part of a larger one. Kept beside the snapshot, for what is judged is decided by the
sizes of clusters, and shards should not be read for that every night. Needs no torch.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from storage.errors import CorruptError, NotFoundError
from storage.layout import Layout
from storage.manifest import content_hash, load, publish
from storage.objects import ObjectStore
from storage.snapshots import SnapshotManifest, read_snapshot_manifest
from storage.suite import SuiteSlice
from training.data.holdout import HoldoutDocument
from training.data.holdout_folder import HoldoutFolder, ScoringUnit

UNIT_TOKENS = 8192
"""Targets of a unit, at most, but for a larger cluster; as many as a forward pass takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceUnits:
    """All units of one slice of the suite."""

    slice: str
    content: str
    """SHA-256 over the digests of the slice's files."""
    units: tuple[ScoringUnit, ...]

    def id_of(self, index: int) -> str:
        """What the scores of a unit are filed under; another after its shards were rewritten."""
        return f"{self.slice}/{self.content[:12]}/{index}"


def item_key(item: SuiteSlice) -> str:
    """What ``SliceUnits.id_of`` begins with."""
    return f"{item.name}/{content_hash(item.files)[:12]}"


def units_of(documents: Sequence[HoldoutDocument], slice_name: str) -> tuple[ScoringUnit, ...]:
    """Deal the clusters of a slice out to units. Pure; no cluster is in two."""
    rows: dict[str, list[int]] = {}
    for row, document in enumerate(documents):
        rows.setdefault(document.cluster, []).append(row)
    chosen: list[list[int]] = []
    room = 0
    for cluster in sorted(rows, key=lambda cluster: rank_of(cluster, slice_name)):
        size = sum(len(documents[row].tokens) - 1 for row in rows[cluster])
        if size > room:
            chosen.append([])
            room = UNIT_TOKENS
        chosen[-1] += rows[cluster]
        room -= size
    return tuple(_unit(unit, documents) for unit in chosen)


def rank_of(name: str, key: str) -> bytes:
    """Where a keyed hash puts a name: an order that has nothing to do with what is named."""
    return hashlib.blake2b(name.encode(), key=hashlib.sha256(key.encode()).digest()).digest()


def folder_of(layout: Layout, item: SuiteSlice, snapshot: SnapshotManifest) -> HoldoutFolder:
    """Where the documents of a slice lie."""
    return HoldoutFolder(
        prefix=layout.snapshot(snapshot.id),
        folder=f"{item.domain}/holdout",
        files=item.files,
        token_dtype=snapshot.token_dtype,
        start_id=snapshot.start_id,
        end_id=snapshot.end_id,
        seq_len=snapshot.seq_len,
    )


def read_units(
    store: ObjectStore, layout: Layout, item: SuiteSlice, work_dir: Path, *, keep: bool = True
) -> SliceUnits:
    """The units of a slice, from the record or from its shards. Safe to retry.

    Args:
        store: Where the snapshot lies.
        layout: Of the lineage.
        item: The slice.
        work_dir: For local copies of shards.
        keep: Put them on record, unless they are.

    Raises:
        CorruptError: A shard or the record is damaged.
    """
    found = stored_units(store, layout, item)
    if found is not None:
        return found
    snapshot = read_snapshot_manifest(store, layout, item.snapshot)
    documents = folder_of(layout, item, snapshot).read(store, work_dir / "snapshots")
    content = content_hash(item.files)
    made = SliceUnits(slice=item.name, content=content, units=units_of(documents, item.name))
    if keep:
        publish(store, layout.units(item.snapshot, item.domain, content), made)
    return made


def stored_units(store: ObjectStore, layout: Layout, item: SuiteSlice) -> SliceUnits | None:
    """The units of a slice from the record alone, None when they are not there.

    Raises:
        CorruptError: The record is damaged.
    """
    content = content_hash(item.files)
    key = layout.units(item.snapshot, item.domain, content)
    try:
        found = load(store, key, SliceUnits)
    except NotFoundError:
        return None
    if (found.slice, found.content) != (item.name, content):
        raise CorruptError(
            f"{key} holds the units of {found.slice} of content {found.content[:12]}, expected "
            f"{item.name} of {content[:12]}: delete it, it will be made again"
        )
    return found


def _unit(rows: Sequence[int], documents: Sequence[HoldoutDocument]) -> ScoringUnit:
    picked = [documents[row] for row in rows]
    return ScoringUnit(
        rows=tuple(rows),
        documents=tuple(row.document for row in picked),
        clusters=tuple(row.cluster for row in picked),
        targets=tuple(len(row.tokens) - 1 for row in picked),
        text_bytes=tuple(row.text_bytes for row in picked),
    )
