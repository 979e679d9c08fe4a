"""Whose text it is that still holds passages of a forgotten one.

What two documents say alike stays where the other one stays. To name it lets a person decide.
"""

from collections.abc import Iterable
from pathlib import Path

from storage.file_cache import FileCache
from storage.layout import Layout
from storage.manifest import fetch_verified
from storage.objects import ObjectStore
from storage.revised import file_named
from storage.snapshots import DOCUMENTS, SnapshotManifest, read_snapshot_manifest
from tasks.forget.passages import Passages
from tasks.forget.proof import Place


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
    found: dict[str, None] = {}
    folders = dict.fromkeys(
        tuple(place.where.removeprefix(f"{layout.snapshots}/").split("/")[:3])
        for place in places
        if place.where.startswith(f"{layout.snapshots}/") and place.where.endswith(".mds")
    )
    for snapshot, domain, split in folders:
        manifest = read_snapshot_manifest(store, layout, snapshot)
        prefix = layout.snapshot(snapshot)
        look = _held_out if split == "holdout" else _trained_on
        found |= dict.fromkeys(look(store, prefix, manifest, domain, passages, work_dir))
    return tuple(found)


def _held_out(
    store: ObjectStore,
    prefix: str,
    manifest: SnapshotManifest,
    domain: str,
    passages: Passages,
    work_dir: Path,
) -> Iterable[str]:
    from training.data.shards import MdsReader, read_holdout  # noqa: PLC0415  numpy

    cache = FileCache(work_dir / "snapshots")
    reader = MdsReader(store, prefix, f"{domain}/holdout", manifest.files, cache)
    for row in read_holdout(reader, token_dtype=manifest.token_dtype):
        if passages.found_in(row.tokens.tobytes()):
            yield row.document


def _trained_on(
    store: ObjectStore,
    prefix: str,
    manifest: SnapshotManifest,
    domain: str,
    passages: Passages,
    work_dir: Path,
) -> Iterable[str]:
    import pyarrow.parquet as pq  # noqa: PLC0415  heavy, and the scheduler imports this module

    from training.data.shards import MdsReader, TrainShards  # noqa: PLC0415  numpy

    cache = FileCache(work_dir / "snapshots")
    reader = MdsReader(store, prefix, f"{domain}/train", manifest.files, cache)
    shards = TrainShards(reader, seq_len=manifest.seq_len)
    file = file_named(manifest.files, DOCUMENTS, f"snapshot {manifest.id}")
    path = work_dir / "documents" / f"{manifest.id}.parquet"
    table = pq.read_table(
        fetch_verified(store, prefix, file, path),
        columns=["document", "first_token"],
        filters=[("domain", "=", domain), ("split", "=", "train")],
    )
    starts = sorted(
        zip(table["first_token"].to_pylist(), table["document"].to_pylist(), strict=True)
    )
    ends = [*starts[1:], (len(shards) * manifest.seq_len + 1, "")]
    for row in range(len(shards)):
        tokens, first = shards.row(row), row * manifest.seq_len
        if not passages.found_in(tokens.tobytes()):
            continue
        for (start, name), (end, _) in zip(starts, ends, strict=True):
            mine = tokens[max(0, start - first) : max(0, end - first)]
            if passages.found_in(mine.tobytes()):
                yield name
