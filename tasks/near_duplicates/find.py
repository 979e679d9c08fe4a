"""Which documents of a lineage a text nearly repeats."""

from collections.abc import Sequence

from storage.file_cache import FileCache
from storage.head import Head
from storage.layout import Layout
from storage.near_duplicate_index import open_index, slots_of
from storage.objects import ObjectStore
from tasks.near_duplicates.config import NearDuplicateConfig
from tasks.near_duplicates.signatures import signatures_of


def find_near(
    store: ObjectStore,
    layout: Layout,
    head: Head,
    texts: Sequence[str],
    config: NearDuplicateConfig,
    *,
    cache: FileCache,
) -> dict[str, dict[int, float]]:
    """By snapshot the rows of its table of documents that a text repeats, and how much of them.

    Documents that were dropped for repeating an earlier one are not in the index: the earlier one
    is found. Snapshots that were refused, or read before there was an index, are not looked at.

    Args:
        store: Where the lineage lies.
        layout: Of the lineage.
        head: Says which snapshots count.
        texts: Normalised as documents are.
        config: What counts as near.
        cache: Through which the index is read.

    Raises:
        CorruptError: A segment is missing or altered.
        ValueError: The index was made with other values than ``config`` has.
    """
    index = open_index(store, layout, slots_of(head), config.scheme, cache)
    signatures = signatures_of(texts, config.scheme)
    found: dict[str, dict[int, float]] = {}
    for keys, prints, is_empty in zip(
        signatures.keys, signatures.prints, signatures.is_empty, strict=True
    ):
        # A text without a word has the signature of every other such.
        places = () if is_empty else index.places(keys, prints, config.min_equal)
        for snapshot, row, equal in places:
            rows = found.setdefault(snapshot, {})
            rows[row] = max(rows.get(row, 0.0), config.likeness(equal))
    return found
