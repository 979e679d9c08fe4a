"""Bring the suite's task items up to date: those that the YAML names, and those that are made.

Runs after a refresh and before a plan, so that a definition that cannot be read is refused before
anything is trained. Importing this module loads no tokenizer.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from storage.errors import HeadMovedError
from storage.file_cache import FileCache
from storage.head import Head, commit_change, next_head, read_head
from storage.layout import Layout
from storage.objects import ObjectStore
from storage.snapshots import read_snapshot
from storage.suite import (
    SuiteManifest,
    SuiteTask,
    publish_suite,
    read_suite,
    suite_with_tasks,
)
from tasks.evaluations.canaries import canary_words, mint_canaries
from tasks.evaluations.cloze import HeldOutText, mint_cloze
from tasks.evaluations.config import MintedConfig, TaskConfig
from tasks.evaluations.configured import read_configured
from tasks.evaluations.frozen import freeze_items

if TYPE_CHECKING:
    from training.tokenizer import Tokenizer

logger = logging.getLogger(__name__)


def freeze_tasks(
    store: ObjectStore,
    layout: Layout,
    tasks: Sequence[TaskConfig],
    minted: MintedConfig,
    *,
    by: str,
    work_dir: Path,
    lease_token: int | None = None,
) -> Head | None:
    """Commit a suite with today's task items, if they differ from its own; returns the head.

    Safe to retry. Without data yet there is no suite and nothing is done.

    Args:
        store: Where the lineage lies.
        layout: Of the lineage.
        tasks: What the YAML names.
        minted: What is made without it.
        by: Who, for the head.
        work_dir: For local copies of tokenizer and shards.
        lease_token: Of the lease under which this runs, if any.

    Raises:
        ValueError: A definition or a data file cannot be used; names file, line and field.
        HeadMovedError: A refresh committed another suite meanwhile; start again.
    """
    head = read_head(store, layout)
    if head is None or head.suite is None:
        return head
    before = read_suite(store, layout, head.suite)
    work = _Freeze(store, layout, head, before, work_dir)
    now = [work.configured(task) for task in tasks]
    now += work.canaries(minted) + work.clozes(minted)
    suite = suite_with_tasks(before, now)
    if suite.id == before.id:
        return head
    publish_suite(store, layout, suite)
    reason = _describe(before, suite)
    logger.info("suite: %s", reason)
    first = head.suite

    def with_it(newest: Head | None) -> Head:
        assert newest is not None  # heads are never removed
        if newest.suite == suite.id:
            return newest
        if newest.suite != first:
            raise HeadMovedError(
                f"{newest.by} committed head {newest.number} of {newest.lineage} with another "
                "suite while task items were frozen; run the same command again"
            )
        changed = next_head(newest, action="suite", by=by, reason=reason, suite=suite.id)
        return changed if lease_token is None else replace(changed, lease_token=lease_token)

    return commit_change(store, layout, with_it)


@dataclass(frozen=True, slots=True)
class _Freeze:
    """One freezing at work, from the head that it started on."""

    store: ObjectStore
    layout: Layout
    head: Head
    suite: SuiteManifest
    work_dir: Path

    def configured(self, task: TaskConfig) -> SuiteTask:
        return freeze_items(
            self.store,
            self.layout,
            read_configured(task),
            name=task.name,
            origin="configured",
            informs_only=task.informs_only,
        )

    def canaries(self, config: MintedConfig) -> list[SuiteTask]:
        """The canaries of the suite, made anew when another number of items is asked for."""
        found = [task for task in self.suite.tasks if task.origin == "canary"]
        if {task.items for task in found} == {config.canary_items}:
            return found
        if not config.canary_items:
            return []
        words = canary_words(self._tokenizer())
        return [
            freeze_items(self.store, self.layout, items, name=name, origin="canary")
            for name, items in mint_canaries(words, config.canary_items).items()
        ]

    def clozes(self, config: MintedConfig) -> list[SuiteTask]:
        """Those of the newest snapshots; what was made once stays as it is."""
        found = {task.snapshot: task for task in self.suite.tasks if task.origin == "cloze"}
        if config.cloze_items:
            for record in self.head.snapshots:
                # Learned ones had theirs made while they were pending.
                is_fresh = record.state == "pending" or record.role == "reference"
                if is_fresh and record.id not in found:
                    made = self._cloze(record.id, config.cloze_items)
                    found |= {record.id: made} if made else {}
        newest = [record.id for record in self.head.snapshots if record.id in found]
        return [found[snapshot] for snapshot in newest[-config.cloze_snapshots :]]

    def _cloze(self, snapshot: str, most: int) -> SuiteTask | None:
        items = mint_cloze(self._held_out(snapshot), most)
        if not items:
            return None
        return freeze_items(
            self.store,
            self.layout,
            items,
            name=f"cloze@{snapshot}",
            origin="cloze",
            snapshot=snapshot,
        )

    def _held_out(self, snapshot: str) -> list[HeldOutText]:
        from training.data.shards import MdsReader, read_holdout  # noqa: PLC0415  numpy

        slices = [item for item in self.suite.slices if item.snapshot == snapshot]
        if not slices:
            return []
        tokenizer = self._tokenizer()
        manifest = read_snapshot(self.store, self.layout, snapshot)
        cache = FileCache(self.work_dir / "snapshots")
        texts: list[HeldOutText] = []
        for item in slices:
            folder = f"{item.domain}/holdout"
            prefix = self.layout.snapshot(snapshot)
            reader = MdsReader(self.store, prefix, folder, item.files, cache)
            for row in read_holdout(reader, token_dtype=manifest.token_dtype):
                text = tokenizer.decode(row.tokens[1:-1])
                texts.append(HeldOutText(document=row.document, cluster=row.cluster, text=text))
        return texts

    def _tokenizer(self) -> "Tokenizer":
        from training.tokenizer import fetch_tokenizer  # noqa: PLC0415  imports tokenizers

        assert self.head.tokenizer is not None  # a suite has tokenised documents
        return fetch_tokenizer(self.store, self.head.tokenizer, self.work_dir / "tokenizer")


def _describe(before: SuiteManifest, suite: SuiteManifest) -> str:
    was = {task.name: task for task in before.tasks}
    now = {task.name: task for task in suite.tasks}
    told = [
        f"{verb} {', '.join(names)}"
        for verb, names in (
            ("new", [name for name in now if name not in was]),
            ("changed", [name for name in now if name in was and was[name] != now[name]]),
            ("without", [name for name in was if name not in now]),
        )
        if names
    ]
    return f"task items: {'; '.join(told)}"
