"""The readers of a plan's streams, in their order."""

from pathlib import Path

from storage.errors import CorruptError
from storage.file_cache import FileCache
from storage.layout import Layout
from storage.objects import ObjectStore
from storage.snapshots import read_snapshot_manifest
from training.config import TrainPlan
from training.data.shards import MdsReader, TrainShards


def open_streams(
    store: ObjectStore, plan: TrainPlan, cache: Path, *, wait_seconds: float = 0.0
) -> list[TrainShards]:
    """A reader for each stream of the plan's mixture, in their order.

    ``wait_seconds``: how long a store that is away is waited for when a shard is needed.
    """
    layout = Layout(plan.lineage)
    manifests = {
        name: read_snapshot_manifest(store, layout, name)
        for name in sorted({stream.snapshot for stream in plan.mixture.streams})
    }
    files_of_machine = FileCache(cache)
    opened: list[TrainShards] = []
    for stream in plan.mixture.streams:
        snapshot = layout.snapshot(stream.snapshot)
        folder = stream.prefix.removeprefix(f"{snapshot}/")
        files = manifests[stream.snapshot].files
        reader = MdsReader(
            store, snapshot, folder, files, files_of_machine, wait_seconds=wait_seconds
        )
        if len(reader) != stream.available:
            raise CorruptError(
                f"{stream.prefix} must hold the {stream.available} samples of the plan, found "
                f"{len(reader)}; plan the update again"
            )
        opened.append(TrainShards(reader, seq_len=plan.seq_len))
    return opened
