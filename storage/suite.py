"""The suite: a versioned manifest of frozen items, the holdouts of all snapshots."""

from collections.abc import Iterable
from dataclasses import dataclass

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
class SuiteManifest:
    """One version of the suite."""

    id: str
    """First 12 hex digits of the SHA-256 of the slices."""
    lineage: str
    slices: tuple[SuiteSlice, ...]


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
    return _suite(snapshot.lineage, [*kept, *added])


def suite_without(previous: SuiteManifest, snapshot: str) -> SuiteManifest:
    """The suite without the holdouts of a snapshot that was refused."""
    return _suite(previous.lineage, [old for old in previous.slices if old.snapshot != snapshot])


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
    found = identity_of(manifest.slices)[:12]
    if (manifest.id, manifest.lineage, found) != (version, layout.lineage, version):
        raise CorruptError(
            f"{key} was altered: its slices have the id {found}, expected {version} of "
            f"{layout.lineage}; restore it from a copy"
        )
    return manifest


def _slices(suite: SuiteManifest | None) -> tuple[SuiteSlice, ...]:
    return () if suite is None else suite.slices


def _suite(lineage: str, slices: Iterable[SuiteSlice]) -> SuiteManifest:
    ordered = tuple(sorted(slices, key=lambda item: (item.domain, item.snapshot)))
    return SuiteManifest(id=identity_of(ordered)[:12], lineage=lineage, slices=ordered)
