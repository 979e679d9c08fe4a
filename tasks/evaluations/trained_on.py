"""Which task items stand in the text that the lineage trains on.

Looked for by the rule of ``tasks.evaluations.item_grams`` in all training text of a snapshot
together. What an imported base model was trained on before is not seen.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from infra.progress import Progress
from storage.errors import AlreadyExistsError, NotFoundError
from storage.file_cache import FileCache
from storage.layout import Layout
from storage.manifest import load, publish
from storage.objects import ObjectStore
from storage.snapshots import SnapshotManifest, read_snapshot
from storage.suite import SuiteTask
from tasks.evaluations.frozen import FrozenItem, read_items
from tasks.evaluations.item_grams import COVERED, ItemGrams

if TYPE_CHECKING:
    from training.data.shards import TrainShards
    from training.tokenizer import Tokenizer

_CHUNK_TOKENS = 1 << 20
_CARRIED_TOKENS = 256
"""Read again with the next chunk, for what straddles the two: more than 13 words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedOn:
    """The items of one task that stand in the training text of one snapshot."""

    snapshot: str
    task: str
    """Name of the file of its items."""
    items: tuple[str, ...]
    shares: tuple[float, ...]
    """Share of each one's n-grams that was found; 1 where it was found as a whole."""


def find_trained_on(
    store: ObjectStore,
    layout: Layout,
    tasks: Sequence[SuiteTask],
    snapshots: Sequence[str],
    tokenizer: "Tokenizer",
    work_dir: Path,
) -> dict[str, dict[str, tuple[str, ...]]]:
    """Ids of the items of each task by the snapshot whose training text has them.

    Safe to retry: what was looked for is on record, so that an update reads its new snapshots only,
    and older ones once for a task that is new. Canaries are built by chance and looked for nowhere;
    what was made of a snapshot's held-out documents only there and in later ones, as its clusters
    were in no earlier one's training text.

    Args:
        store: Where the lineage lies.
        layout: Of the lineage.
        tasks: Of the suite.
        snapshots: That are trained on, oldest first.
        tokenizer: Of the lineage.
        work_dir: For local copies of shards.

    Raises:
        CorruptError: A shard, a record or the items are damaged.
    """
    found: dict[str, dict[str, tuple[str, ...]]] = {task.name: {} for task in tasks}
    for snapshot in snapshots:
        missing: list[SuiteTask] = []
        for task in tasks:
            if snapshot not in _searched(task, snapshots):
                continue
            try:
                record = load(store, layout.trained_on(task.file.name, snapshot), TrainedOn)
                found[task.name][snapshot] = record.items
            except NotFoundError:
                missing.append(task)
        if missing:
            manifest = read_snapshot(store, layout, snapshot)
            items = {task.file.name: read_items(store, layout, task) for task in missing}
            shards = _open_shards(store, layout, manifest, work_dir)
            for record in _search(items, manifest, shards, tokenizer):
                _keep(store, layout, record)
                for task in missing:
                    if task.file.name == record.task:
                        found[task.name][snapshot] = record.items
    return found


def _searched(task: SuiteTask, snapshots: Sequence[str]) -> Sequence[str]:
    if task.origin == "canary":
        return ()
    if task.snapshot in snapshots:
        return snapshots[snapshots.index(task.snapshot) :]
    return snapshots


def covered(
    tasks: Mapping[str, Sequence[FrozenItem]], texts: Iterable[str]
) -> dict[str, dict[str, float]]:
    """By task and item, the share of its n-grams that ``texts`` have; only of those known.

    Pure. ``texts`` may be cut anywhere, if the end of each comes again in the next.
    """
    grams = ItemGrams(tasks)
    seen: defaultdict[int, list[NDArray[np.uint64]]] = defaultdict(list)
    for text in texts:
        for n, hashes in grams.found_in(text):
            seen[n].append(hashes)
    known = {n: np.unique(np.concatenate(parts)) for n, parts in seen.items()}
    shares: dict[str, dict[str, float]] = {name: {} for name in tasks}
    for sought, least in ((grams.own, COVERED), (grams.questions, 1.0)):
        for (task, item), (n, hashes) in sought.items():
            share = float(np.isin(hashes, known[n]).mean()) if n in known else 0.0
            if share >= least:
                shares[task][item] = share
    return shares


def _search(
    items: Mapping[str, Sequence[FrozenItem]],
    manifest: SnapshotManifest,
    shards: "Sequence[TrainShards]",
    tokenizer: "Tokenizer",
) -> Iterator[TrainedOn]:
    """One pass over the training text for all tasks together."""
    shares = covered(items, _texts(manifest, shards, tokenizer))
    for name, found in shares.items():
        known = sorted(found.items())
        yield TrainedOn(
            snapshot=manifest.id,
            task=name,
            items=tuple(item for item, _ in known),
            shares=tuple(round(share, 4) for _, share in known),
        )


def _texts(
    manifest: SnapshotManifest, shards: "Sequence[TrainShards]", tokenizer: "Tokenizer"
) -> Iterator[str]:
    """The training text of a snapshot in pieces, the end of each again with the next."""
    total = sum(domain.train_tokens for domain in manifest.domains)
    with Progress(f"items in {manifest.id}", total, "tokens") as progress:
        done = 0
        for table in shards:
            rows = max(1, _CHUNK_TOKENS // table.seq_len)
            carried = np.empty(0, table.dtype)
            for first in range(0, len(table), rows):
                last = min(first + rows, len(table))
                # A row's last token is the next one's first.
                tokens = table.rows(np.arange(first, last))[:, :-1].ravel()
                tokens = np.concatenate([carried, tokens])
                carried = tokens[-_CARRIED_TOKENS:]
                yield _decoded(tokens, manifest, tokenizer)
                done += min((last - first) * table.seq_len, total - done)
                progress.update(done)


def _decoded(tokens: NDArray[Any], manifest: SnapshotManifest, tokenizer: "Tokenizer") -> str:
    starts = np.flatnonzero(tokens == manifest.start_id)
    pieces = [piece.tolist() for piece in np.split(tokens, starts) if piece.size]
    return "\n".join(tokenizer.encoder.decode_batch(pieces, skip_special_tokens=True))


def _open_shards(
    store: ObjectStore, layout: Layout, manifest: SnapshotManifest, work_dir: Path
) -> "list[TrainShards]":
    from training.data.shards import MdsReader, TrainShards  # noqa: PLC0415

    prefix, cache = layout.snapshot(manifest.id), FileCache(work_dir / "snapshots")
    return [
        TrainShards(
            MdsReader(store, prefix, f"{domain.domain}/train", manifest.files, cache),
            seq_len=manifest.seq_len,
        )
        for domain in manifest.domains
        if domain.train_samples
    ]


def _keep(store: ObjectStore, layout: Layout, record: TrainedOn) -> None:
    try:
        publish(store, layout.trained_on(record.task, record.snapshot), record)
    except AlreadyExistsError:
        # Another release of the tokenizer's library may spell bytes that are no text otherwise.
        return
