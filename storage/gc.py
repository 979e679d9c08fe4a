"""Garbage: what no head of a lineage reaches any more.

Nothing here decides by age alone. The grace time only protects what is written and not committed
yet.
"""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from storage.errors import NotFoundError
from storage.head import Head, VersionRecord, history
from storage.layout import KEEP_MARK, Layout
from storage.models import is_published, read_model_manifest, weights_hash
from storage.near_duplicate_index import live_merges, slots_of
from storage.objects import ObjectInfo, ObjectStore
from storage.snapshots import read_snapshot
from storage.suite import read_suite
from storage.taken_over import needed_updates


@dataclass(slots=True)
class _Live:
    """Keys and prefixes that are reachable, and prefixes below those that are not."""

    keys: set[str] = field(default_factory=set[str])
    prefixes: set[str] = field(default_factory=set[str])
    spared_prefixes: set[str] = field(default_factory=set[str])
    """Live also below a prefix of ``dropped_prefixes``."""
    dropped_prefixes: set[str] = field(default_factory=set[str])

    def has(self, key: str) -> bool:
        above = set(_prefixes_of(key))
        if key in self.keys or above & self.spared_prefixes:
            return True
        return bool(above & self.prefixes) and not above & self.dropped_prefixes


def find_garbage(
    store: ObjectStore, layout: Layout, *, grace_seconds: float, now: float | None = None
) -> list[ObjectInfo]:
    """Objects of the lineage that no head reaches and that are older than ``grace_seconds``.

    Reached are: all heads, and of each its marks, tokenizer, suite with its task items, replay
    buffer, trunk and snapshots with their pages; of each version its model, scores, ledger and
    update, but of the checkpoints only the trunk and the permanent ones; of the merged segments of
    the index those that a refresh would read now. An update that was begun and not judged is kept
    whole, also when its run has ended, with the updates that it goes on from.

    Choose a grace time longer than the longest step between a first write and its commit.

    Raises:
        CorruptError: A head, or the manifest of a snapshot or a suite, was altered; nothing should
            be removed now.
    """
    # Listed before the heads are read: what is committed in between is then seen as reached.
    found = list(store.list(layout.root))
    live = _reached(store, layout)
    for checkpoint in _permanent(found):
        if live.dropped_prefixes & set(_prefixes_of(checkpoint)):
            live.spared_prefixes.add(checkpoint)
    oldest = (time.time() if now is None else now) - grace_seconds
    return [info for info in found if info.modified_at < oldest and not live.has(info.key)]


def delete_garbage(store: ObjectStore, garbage: Iterable[ObjectInfo]) -> int:
    """Remove what ``find_garbage`` found; returns the bytes freed. Safe to retry.

    Manifests go first, so that a half-removed result never reads as whole.
    """
    freed_bytes = 0
    for info in sorted(garbage, key=lambda info: not info.key.endswith("/manifest.json")):
        store.delete(info.key)
        freed_bytes += info.size
    return freed_bytes


def find_unfinished(
    store: ObjectStore, layout: Layout, *, grace_seconds: float, now: float | None = None
) -> list[str]:
    """Keys of the uploads that ``abort_unfinished`` drops.

    A listing does not show them, yet the store keeps, and charges for, the parts that arrived.
    """
    oldest = (time.time() if now is None else now) - grace_seconds
    found = store.list_uploads(layout.root)
    return sorted(info.key for info in found if info.modified_at < oldest)


def abort_unfinished(
    store: ObjectStore, layout: Layout, *, grace_seconds: float, now: float | None = None
) -> int:
    """Drop uploads of killed writers older than the grace time; returns how many. Safe to retry."""
    oldest = (time.time() if now is None else now) - grace_seconds
    return store.abort_uploads(layout.root, older_than=oldest)


def _reached(store: ObjectStore, layout: Layout) -> _Live:
    live = _Live(
        keys={layout.head_hint, layout.lease, layout.projection},
        prefixes={layout.heads, layout.takedowns},
    )
    heads = history(store, layout)
    snapshots = sorted({record.id for head in heads for record in head.snapshots})
    for suite in sorted({head.suite for head in heads if head.suite}):
        _reach_task_items(live, store, layout, suite, snapshots)
    for head in heads:
        _reach_head(live, layout, head)
    for snapshot in snapshots:
        live.keys.add(layout.refresh_report(snapshot))
        live.prefixes.add(layout.snapshot(snapshot))
        live.prefixes.add(read_snapshot(store, layout, snapshot).tokenizer)
    # Of the newest head alone: an older one knew a part of it, which its merges have.
    live.prefixes |= live_merges(store, layout, slots_of(heads[-1] if heads else None))
    for version in _versions(heads):
        _reach_version(live, layout, version)
        _reach_scores(live, store, layout, version.version)
    for busy in needed_updates(store, layout):
        live.keys.add(layout.ledger(busy))
        live.spared_prefixes.add(layout.update(busy))
        _reach_unjudged(live, store, layout, busy)
    return live


def _reach_head(live: _Live, layout: Layout, head: Head) -> None:
    if head.marks:
        live.keys.add(head.marks)
    if head.tokenizer:
        live.prefixes.add(head.tokenizer)
    if head.trunk:
        _reach_trunk(live, layout, head.trunk)
    if head.suite:
        live.prefixes.add(layout.suite(head.suite))
    if head.replay:
        live.prefixes.add(layout.replay(head.replay))


def _reach_task_items(
    live: _Live, store: ObjectStore, layout: Layout, suite: str, snapshots: Iterable[str]
) -> None:
    try:
        tasks = read_suite(store, layout, suite).tasks
    except NotFoundError:
        return
    for task in tasks:
        live.keys.add(f"{layout.suite_items}/{task.file.name}")
        live.keys |= {layout.trained_on(task.file.name, snapshot) for snapshot in snapshots}


def _reach_version(live: _Live, layout: Layout, version: VersionRecord) -> None:
    live.prefixes.add(layout.model(version.version))
    live.prefixes.add(layout.update(version.update))
    live.keys.add(layout.ledger(version.update))
    live.dropped_prefixes.add(layout.checkpoints(version.update))
    if version.trunk:
        _reach_trunk(live, layout, version.trunk)
    if version.replay:
        live.prefixes.add(layout.replay(version.replay))
    for snapshot in version.snapshots:
        live.prefixes.add(layout.snapshot(snapshot))


def _reach_trunk(live: _Live, layout: Layout, trunk: str) -> None:
    """A checkpoint, and the plan that says what it is: its update need not have been judged."""
    live.spared_prefixes.add(trunk)
    live.keys.add(layout.plan(layout.checkpoint_of(trunk)[0]))


def _reach_unjudged(live: _Live, store: ObjectStore, layout: Layout, update: str) -> None:
    """Model and scores of a candidate whose verdict is not committed: named after the update."""
    for info in store.list(layout.models):
        version = info.key.removeprefix(f"{layout.models}/").split("/")[0]
        if version.endswith(f"-{update[:8]}") and layout.model(version) not in live.prefixes:
            live.prefixes.add(layout.model(version))
            _reach_scores(live, store, layout, version)


def _reach_scores(live: _Live, store: ObjectStore, layout: Layout, version: str) -> None:
    """What a model scored lies under the hash of its weights, which versions may share."""
    prefix = layout.model(version)
    if is_published(store, prefix):
        weights = weights_hash(read_model_manifest(store, prefix))
        live.prefixes |= {
            layout.model_scores(weights),
            layout.model_task_scores(weights),
            layout.model_looks(weights),
        }


def _versions(heads: Iterable[Head]) -> Iterator[VersionRecord]:
    for head in heads:
        yield from head.versions


def _permanent(found: Iterable[ObjectInfo]) -> set[str]:
    """Checkpoints that a run has marked to stay."""
    mark = f"/{KEEP_MARK}"
    return {info.key.removesuffix(mark) for info in found if info.key.endswith(mark)}


def _prefixes_of(key: str) -> Iterator[str]:
    """Every prefix of a key at a slash, and the key itself."""
    parts = key.split("/")
    for end in range(1, len(parts) + 1):
        yield "/".join(parts[:end])
