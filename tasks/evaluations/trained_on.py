"""Which task items stand in the text that the lineage trains on.

Whole items of a few words, and 13-grams of longer ones, are looked for in the training text of a
snapshot, whatever its case, punctuation and line breaks (the n-gram rule of Brown et al. 2020,
arXiv:2005.14165, section 4). What this does not see: paraphrases and translations, items of fewer
than five words, and what an imported base model was trained on before.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
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

if TYPE_CHECKING:
    from training.data.shards import TrainShards
    from training.tokenizer import Tokenizer

_N = 13
"""Words of an n-gram."""
_LEAST_WORDS = 5
"""Shorter items are found in any text."""
_TEMPLATE_ITEMS = 8
"""Fewer items may begin alike by chance, and nothing is taken for a template."""
_COVERED = 0.5
"""An item is known when this share of its distinctive n-grams stands in the text."""
_CHUNK_TOKENS = 1 << 20
_CARRIED_TOKENS = 256
"""Read again with the next chunk, for what straddles the two: more than 13 words."""
_WORD = re.compile(r"\w+")
_BASE = np.uint64(0x9E3779B97F4A7C15)

_Grams = dict[int, NDArray[np.uint64]]
"""By length in words, the hashes of n-grams."""


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
    vocabulary: dict[str, int] = {}
    grams = {name: _grams_of(items, vocabulary) for name, items in tasks.items()}
    sought = [(n, hashes) for each in grams.values() for n, hashes in each.values()]
    wanted: _Grams = {
        length: np.unique(np.concatenate([hashes for n, hashes in sought if n == length]))
        for length in sorted({n for n, _ in sought})
    }
    seen: defaultdict[int, list[NDArray[np.uint64]]] = defaultdict(list)
    for text in texts:
        for n, hashes in _found_in(text, wanted, vocabulary):
            seen[n].append(hashes)
    known = {n: np.unique(np.concatenate(parts)) for n, parts in seen.items()}
    shares = {
        name: {
            item: float(np.isin(hashes, known[n]).mean())
            for item, (n, hashes) in each.items()
            if n in known
        }
        for name, each in grams.items()
    }
    return {
        name: {item: share for item, share in each.items() if share >= _COVERED}
        for name, each in shares.items()
    }


def _grams_of(
    items: Sequence[FrozenItem], vocabulary: dict[str, int]
) -> dict[str, tuple[int, NDArray[np.uint64]]]:
    """Of each item that is long enough, the length and hashes of its distinctive n-grams.

    Fills ``vocabulary`` with numbers for the words.
    """
    words = {item.item.id: _WORD.findall(item.text.lower()) for item in items}
    template = len(_common_start(list(words.values()))) if len(words) >= _TEMPLATE_ITEMS else 0
    grams: dict[str, tuple[int, NDArray[np.uint64]]] = {}
    for name, all_words in words.items():
        own = all_words[template:]
        if len(own) < _LEAST_WORDS:
            continue
        ids = [vocabulary.setdefault(word, len(vocabulary) + 1) for word in own]
        n = min(_N, len(own))
        grams[name] = n, np.unique(_hashes(np.array(ids, np.uint64), n))
    return _distinctive(grams, {item.item.id: item.item.cluster for item in items})


def _distinctive(
    grams: Mapping[str, tuple[int, NDArray[np.uint64]]], clusters: Mapping[str, str]
) -> dict[str, tuple[int, NDArray[np.uint64]]]:
    """Without the n-grams that several clusters share: a template's, which tell nothing."""
    held = {(h, clusters[name]) for name, (_, hashes) in grams.items() for h in hashes.tolist()}
    holders = Counter(hashed for hashed, _ in held)
    found: dict[str, tuple[int, NDArray[np.uint64]]] = {}
    for name, (n, hashes) in grams.items():
        own = np.array([h for h in hashes.tolist() if holders[h] == 1], np.uint64)
        found[name] = n, own if own.size else hashes
    return found


def _common_start(texts: Sequence[list[str]]) -> list[str]:
    """The words that all texts begin with."""
    # What the first and the last in the order of the alphabet share, all between them share.
    pairs = zip(min(texts), max(texts), strict=False)
    return [word for word, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)]


def _found_in(
    text: str, wanted: _Grams, vocabulary: Mapping[str, int]
) -> Iterator[tuple[int, NDArray[np.uint64]]]:
    words = _WORD.findall(text.lower())
    get = vocabulary.get
    ids = np.fromiter((get(word, 0) for word in words), np.uint64, len(words))
    for n, hashes in wanted.items():
        if len(ids) >= n:
            there = np.unique(_hashes(ids, n))
            yield n, there[np.isin(there, hashes, assume_unique=True)]


def _hashes(ids: NDArray[np.uint64], n: int) -> NDArray[np.uint64]:
    """A hash of every run of ``n`` words: a polynomial of their ids, modulo 2^64."""
    count = len(ids) - n + 1
    hashes = ids[:count].copy()
    for offset in range(1, n):
        hashes *= _BASE
        hashes += ids[offset : offset + count]
    return hashes


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
