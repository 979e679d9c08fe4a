"""Documents of a lineage that have the text of others, or nearly, whether or not that was kept."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from storage.file_cache import FileCache
from storage.head import Head
from storage.layout import Layout
from storage.near_duplicate_index import open_index, slots_of
from storage.objects import ObjectStore
from storage.snapshots import SnapshotManifest
from tasks.near_duplicates.config import NearDuplicateConfig
from tasks.near_duplicates.dropped import signatures_of_rows
from tasks.near_duplicates.signatures import Signatures

Place = tuple[str, int]
"""Snapshot, and row of its table of documents."""


@dataclass(frozen=True, slots=True)
class NearTwins:
    """What one document nearly repeats, of which nothing but the signature need be there."""

    signature: Signatures
    likeness: Mapping[Place, float]
    """Of what it repeats, itself not counted: Jaccard similarity, estimated. A text that is kept
    out by a takedown is there under the name of its segment."""


def near_twins(
    store: ObjectStore,
    layout: Layout,
    head: Head,
    manifests: Mapping[str, SnapshotManifest],
    places: Collection[Place],
    config: NearDuplicateConfig,
    *,
    cache: FileCache,
) -> dict[Place, NearTwins]:
    """What documents nearly repeat, of those of which a signature is there.

    Args:
        store: Where the lineage lies.
        layout: Of the lineage.
        head: Says which snapshots count.
        manifests: Of the snapshots, by id.
        places: Of the documents.
        config: What counts as near.
        cache: Through which signatures are read.

    Raises:
        CorruptError: A segment is missing or altered.
        ValueError: The index was made with other values than ``config`` has.
    """
    rows: dict[str, list[int]] = {}
    for snapshot, row in places:
        rows.setdefault(snapshot, []).append(row)
    if not rows:
        return {}
    index = open_index(store, layout, slots_of(head), config.scheme, cache)
    found: dict[Place, NearTwins] = {}
    for snapshot, wanted in sorted(rows.items()):
        signed = signatures_of_rows(
            store, layout, manifests[snapshot], wanted, config.scheme, cache
        )
        for row, signature in sorted(signed.items()):
            like = index.places(signature.keys[0], signature.prints[0], config.min_equal)
            likeness: dict[Place, float] = {}
            for other, place, equal in like:
                if (other, place) != (snapshot, row):
                    known = likeness.get((other, place), 0.0)
                    likeness[other, place] = max(known, config.likeness(equal))
            found[snapshot, row] = NearTwins(signature, likeness)
    return found
