"""The suite without what was made of the documents that are forgotten.

Its held-out slices follow the snapshots. Items of tasks that were made from a document, or that
quote one, are left out, and with them what models answered to the others of the same file: it is
filed under a hash of all of them, and is scored anew.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from storage.layout import Layout
from storage.manifest import canonical_json, unseal
from storage.objects import ObjectStore
from storage.snapshots import read_snapshot_manifest
from storage.suite import (
    SuiteManifest,
    SuiteTask,
    publish_suite,
    read_suite,
    suite_of,
    suite_with_tasks,
)
from storage.takedowns import Takedown
from tasks.evaluations.frozen import FrozenItem, TaskItems, freeze_items, read_items
from tasks.forget.passages import Passages


def rewrite_suite(
    store: ObjectStore, layout: Layout, takedown: Takedown, version: str
) -> SuiteManifest:
    """Publish the suite that follows ``version``; the same one when nothing of it is affected.

    Safe to retry. The snapshots must be rewritten before.

    Raises:
        CorruptError: The suite, a snapshot's manifest or items are damaged.
    """
    before = read_suite(store, layout, version)
    suite = before
    for snapshot in takedown.snapshots:
        if any(item.snapshot == snapshot for item in before.slices):
            suite = suite_of(suite, read_snapshot_manifest(store, layout, snapshot))
    passages = Passages(takedown.windows)
    tasks = [_rewritten(store, layout, takedown, passages, task) for task in suite.tasks]
    suite = suite_with_tasks(suite, [task for task in tasks if task is not None])
    if suite.id != before.id:
        publish_suite(store, layout, suite)
    return suite


def tasks_that_quote(
    store: ObjectStore, layout: Layout, takedown: Takedown, version: str
) -> tuple[str, ...]:
    """Tasks of the YAML that have items about forgotten documents: their files have them still."""
    passages = Passages(takedown.windows)
    return tuple(
        task.name
        for task in read_suite(store, layout, version).tasks
        if task.origin == "configured"
        and any(
            is_about(item, takedown, passages, task.snapshot)
            for item in read_items(store, layout, task)
        )
    )


def item_files_about(store: ObjectStore, layout: Layout, takedown: Takedown) -> list[str]:
    """Files of items, of any version of the suite, that are about forgotten documents."""
    passages = Passages(takedown.windows)
    found: list[str] = []
    for info in store.list(layout.suite_items):
        items = unseal(store.get(info.key), info.key, TaskItems).items
        # Whose held-out documents they were made from the file does not say.
        if any(is_about(item, takedown, passages, None) for item in items):
            found.append(PurePosixPath(info.key).name)
    return found


def keys_of_items(store: ObjectStore, layout: Layout, files: Sequence[str]) -> list[str]:
    """Files of items, and everything that was found out with them."""
    stems = tuple(name.removesuffix(".json") for name in files)
    keys = [f"{layout.suite_items}/{name}" for name in files]
    for prefix in (layout.all_trained_on, layout.all_task_scores):
        keys += [
            info.key
            for info in store.list(prefix)
            if stems and PurePosixPath(info.key).name.startswith(stems)
        ]
    return keys


def is_about(
    item: FrozenItem, takedown: Takedown, passages: Passages, snapshot: str | None
) -> bool:
    """Whether an item was made from a forgotten document, or quotes one.

    Args:
        item: The item.
        takedown: Says which documents are forgotten.
        passages: Of their texts.
        snapshot: From whose held-out documents it was made, "" for none; None: not known.
    """
    document = item.item.id.rpartition("#")[0]
    is_made_of = snapshot != "" and any(
        one.document == document and snapshot in (None, one.snapshot) for one in takedown.documents
    )
    return is_made_of or bool(passages.found_in(canonical_json(item)))


def _rewritten(
    store: ObjectStore, layout: Layout, takedown: Takedown, passages: Passages, task: SuiteTask
) -> SuiteTask | None:
    """The task without items about forgotten documents; None when none is left."""
    items = read_items(store, layout, task)
    kept = [item for item in items if not is_about(item, takedown, passages, task.snapshot)]
    if len(kept) == len(items):
        return task
    if not kept:
        return None
    frozen = freeze_items(
        store,
        layout,
        kept,
        name=task.name,
        origin=task.origin,
        snapshot=task.snapshot,
        informs_only=task.informs_only,
    )
    return replace(frozen, kind=task.kind)
