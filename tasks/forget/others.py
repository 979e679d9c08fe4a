"""Whose text it is that still holds passages of a forgotten one.

What two documents say alike stays where the other one stays. To name it lets a person decide.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from storage.file_cache import FileCache
from storage.layout import Layout
from storage.manifest import fetch_verified
from storage.objects import ObjectStore
from storage.revised import file_named
from storage.snapshots import DOCUMENTS, SnapshotManifest, read_snapshot_manifest
from tasks.forget.passages import Passages
from tasks.forget.proof import Place

if TYPE_CHECKING:
    from training.data.shards import MdsReader


def others_with(
    store: ObjectStore,
    layout: Layout,
    places: Iterable[Place],
    passages: Passages,
    work_dir: Path,
) -> tuple[str, ...]:
    """Ids of the documents in whose shards passages were found, and that hold some.

    Args:
        store: Where the lineage lies.
        layout: Of the lineage.
        places: From the search.
        passages: That were looked for.
        work_dir: For local copies.

    Raises:
        CorruptError: A shard or a table is damaged.
    """
    from training.data.shards import MdsReader  # noqa: PLC0415  numpy

    found: dict[str, None] = {}
    folders = dict.fromkeys(
        tuple(place.where.removeprefix(f"{layout.snapshots}/").split("/")[:3])
        for place in places
        if place.where.startswith(f"{layout.snapshots}/") and place.where.endswith(".mds")
    )
    cache = FileCache(work_dir / "snapshots")
    for snapshot, domain, split in folders:
        manifest = read_snapshot_manifest(store, layout, snapshot)
        prefix = layout.snapshot(snapshot)
        reader = MdsReader(store, prefix, f"{domain}/{split}", manifest.files, cache)
        if split == "holdout":
            names = _held_out(reader, manifest, passages)
        else:
            file = file_named(manifest.files, DOCUMENTS, f"snapshot {snapshot}")
            table = work_dir / "documents" / f"{snapshot}.parquet"
            starts = _starts(fetch_verified(store, prefix, file, table), domain)
            names = _trained_on(reader, manifest, starts, passages)
        found |= dict.fromkeys(names)
    return tuple(found)


def _held_out(reader: "MdsReader", manifest: SnapshotManifest, passages: Passages) -> Iterator[str]:
    from training.data.shards import read_holdout  # noqa: PLC0415  numpy

    for row in read_holdout(reader, token_dtype=manifest.token_dtype):
        if passages.found_in(row.tokens.tobytes()):
            yield row.document


def _starts(table: Path, domain: str) -> list[tuple[int, str]]:
    """Where the documents of a domain that are trained on begin, in order."""
    import pyarrow.parquet as pq  # noqa: PLC0415  heavy, and the scheduler imports this module

    rows = pq.read_table(
        table,
        columns=["document", "first_token"],
        filters=[("domain", "=", domain), ("split", "=", "train")],
    )
    return sorted(zip(rows["first_token"].to_pylist(), rows["document"].to_pylist(), strict=True))


def _trained_on(
    reader: "MdsReader",
    manifest: SnapshotManifest,
    starts: Sequence[tuple[int, str]],
    passages: Passages,
) -> Iterator[str]:
    from training.data.shards import TrainShards  # noqa: PLC0415  numpy

    shards = TrainShards(reader, seq_len=manifest.seq_len)
    ends = [*starts[1:], (len(shards) * manifest.seq_len + 1, "")]
    for row in range(len(shards)):
        tokens, first = shards.row(row), row * manifest.seq_len
        if not passages.found_in(tokens.tobytes()):
            continue
        for (start, name), (end, _) in zip(starts, ends, strict=True):
            mine = tokens[max(0, start - first) : max(0, end - first)]
            if passages.found_in(mine.tobytes()):
                yield name
