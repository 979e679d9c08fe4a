"""The verdict on a snapshot's text: of which task items it has none, and which it has.

A snapshot is searched for the items of its day when it is made. When the suite gets a task later,
a snapshot is searched for that task alone, before anything is trained on it. Text cannot be taken
out of a snapshot that exists, so what is found then guards nothing
(``tasks.evaluations.score_tasks``).
"""

import logging
from collections.abc import Iterable
from pathlib import Path

from storage.head import Head
from storage.layout import Layout
from storage.objects import ObjectStore
from storage.snapshots import read_snapshot_manifest
from storage.suite import SuiteTask, read_suite
from tasks.evaluations.trained_on import find_trained_on

logger = logging.getLogger(__name__)


def bring_up_to_date(
    store: ObjectStore, layout: Layout, head: Head, snapshots: Iterable[str], *, work_dir: Path
) -> None:
    """Search ``snapshots`` for the tasks that they were not searched for.

    Safe to retry: what was searched for is on record.

    Raises:
        CorruptError: A shard, a record or a file of items is damaged.
    """
    from training.tokenizer import fetch_tokenizer  # noqa: PLC0415  imports tokenizers

    unchecked = _unchecked(store, layout, head, snapshots)
    if not unchecked:
        return
    assert head.tokenizer is not None  # a snapshot is made of tokens
    tokenizer = fetch_tokenizer(store, head.tokenizer, work_dir / "tokenizer")
    for snapshot, missing in unchecked.items():
        found = find_trained_on(store, layout, missing, [snapshot], tokenizer, work_dir)
        for task in missing:
            if items := found[task.name].get(snapshot):
                logger.warning(
                    f"{len(items)} of {task.items} items of task {task.name} stand in snapshot "
                    f"{snapshot}, which was read before there was that task: they will guard "
                    "nothing"
                )


def check_current(store: ObjectStore, layout: Layout, head: Head, snapshots: Iterable[str]) -> None:
    """Refuse to train on text that was not searched for every configured task of the suite.

    Raises:
        ValueError: Names snapshot and tasks.
    """
    for snapshot, missing in _unchecked(store, layout, head, snapshots).items():
        names = ", ".join(task.name for task in missing)
        raise ValueError(
            f"snapshot {snapshot} was never searched for the items of {names}, so nobody knows "
            "whether a model trained on it would know them: run 'perennial update' from its "
            "start, which searches"
        )


def _unchecked(
    store: ObjectStore, layout: Layout, head: Head, snapshots: Iterable[str]
) -> dict[str, list[SuiteTask]]:
    """Configured tasks of the suite by the snapshots that were not searched for them."""
    if head.suite is None:
        return {}
    tasks = [
        task for task in read_suite(store, layout, head.suite).tasks if task.origin == "configured"
    ]
    if not tasks:
        return {}
    found: dict[str, list[SuiteTask]] = {}
    for snapshot in snapshots:
        manifest = read_snapshot_manifest(store, layout, snapshot)
        checked = {one.items for one in manifest.checked_tasks}
        missing = [
            task
            for task in tasks
            if task.file.name not in checked
            and not store.exists(layout.trained_on(task.file.name, snapshot))
        ]
        if missing:
            found[snapshot] = missing
    return found
