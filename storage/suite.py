"""The suite: a versioned manifest of frozen items, holdouts of all snapshots and task items."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from storage.errors import CorruptError
from storage.layout import Layout
from storage.manifest import FileDigest, identity_of, load, publish
from storage.objects import ObjectStore
from storage.snapshots import SnapshotManifest


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteSlice:
    """The holdout of one domain of one snapshot; whether it is old or new the head's states say."""

    domain: str
    snapshot: str
    documents: int
    clusters: int
    tokens: int
    files: tuple[FileDigest, ...]
    """Relative to the snapshot's prefix."""

    @property
    def name(self) -> str:
        """``<domain>@<snapshot>``."""
        return f"{self.domain}@{self.snapshot}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteTask:
    """One set of questions with right answers; their texts lie in ``file``."""

    name: str
    kind: str
    """What makes an answer right, as ``training.items.item`` names it."""
    items: int
    clusters: int
    file: FileDigest
    """Relative to ``Layout.suite_items``; named after its content."""
    origin: Literal["configured", "cloze", "canary"]
    """``configured``: named in the YAML. The others were made without anybody writing them: from
    held-out documents of ``snapshot``, or from the vocabulary."""
    snapshot: str = ""
    informs_only: bool = False
    """No verdict depends on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteManifest:
    """One version of the suite."""

    id: str
    """First 12 hex digits of the SHA-256 of the slices, and of the tasks if there are any."""
    lineage: str
    slices: tuple[SuiteSlice, ...]
    tasks: tuple[SuiteTask, ...] = ()
    """By name."""


def suite_of(previous: SuiteManifest | None, snapshot: SnapshotManifest) -> SuiteManifest:
    """The suite with the holdouts of ``snapshot``; domains without held-out documents add nothing.

    A snapshot that is in the suite already gives the same suite again.
    """
    added = [
        SuiteSlice(
            domain=held.domain,
            snapshot=snapshot.id,
            documents=held.holdout_documents,
            clusters=held.holdout_clusters,
            tokens=held.holdout_tokens,
            files=tuple(
                file for file in snapshot.files if file.name.startswith(f"{held.domain}/holdout/")
            ),
        )
        for held in snapshot.domains
        if held.holdout_documents > 0
    ]
    kept = [old for old in _slices(previous) if old.snapshot != snapshot.id]
    return _suite(snapshot.lineage, [*kept, *added], _tasks(previous))


def suite_without(previous: SuiteManifest, snapshot: str) -> SuiteManifest:
    """The suite without the holdouts of a snapshot that was refused, and what was made of them."""
    return _suite(
        previous.lineage,
        [old for old in previous.slices if old.snapshot != snapshot],
        [task for task in previous.tasks if task.snapshot != snapshot],
    )


def suite_with_tasks(previous: SuiteManifest, tasks: Iterable[SuiteTask]) -> SuiteManifest:
    """The suite with these tasks in place of those that it had.

    Raises:
        ValueError: Two tasks have one name.
    """
    suite = _suite(previous.lineage, previous.slices, tasks)
    names = [task.name for task in suite.tasks]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two tasks of the suite are called {twice[0]!r}; rename one")
    return suite


def publish_suite(store: ObjectStore, layout: Layout, manifest: SuiteManifest) -> None:
    """Write a version of the suite. Safe to retry."""
    publish(store, layout.suite_manifest(manifest.id), manifest)


def read_suite(store: ObjectStore, layout: Layout, version: str) -> SuiteManifest:
    """A version of the suite; its files are checked when they are used (``fetch_verified``).

    Raises:
        NotFoundError: There is no such version.
        CorruptError: It was altered.
    """
    key = layout.suite_manifest(version)
    manifest = load(store, key, SuiteManifest)
    found = _suite(manifest.lineage, manifest.slices, manifest.tasks).id
    if (manifest.id, manifest.lineage, found) != (version, layout.lineage, version):
        raise CorruptError(
            f"{key} was altered: its content has the id {found}, expected {version} of "
            f"{layout.lineage}; restore it from a copy"
        )
    return manifest


def _slices(suite: SuiteManifest | None) -> tuple[SuiteSlice, ...]:
    return () if suite is None else suite.slices


def _tasks(suite: SuiteManifest | None) -> tuple[SuiteTask, ...]:
    return () if suite is None else suite.tasks


def _suite(lineage: str, slices: Iterable[SuiteSlice], tasks: Iterable[SuiteTask]) -> SuiteManifest:
    ordered = tuple(sorted(slices, key=lambda item: (item.domain, item.snapshot)))
    named = tuple(sorted(tasks, key=lambda task: task.name))
    # Suites of before there were tasks keep their ids.
    content = [ordered, named] if named else ordered
    return SuiteManifest(id=identity_of(content)[:12], lineage=lineage, slices=ordered, tasks=named)
