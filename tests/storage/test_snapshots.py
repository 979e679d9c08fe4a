from dataclasses import replace
from pathlib import Path

import pytest

from storage.errors import AlreadyExistsError, CorruptError, NotFoundError
from storage.local_objects import LocalObjects
from storage.manifest import content_hash, digest_bytes, readable_json
from storage.snapshots import SnapshotManifest, mint, read_snapshot
from tests.storage.building import (
    LAYOUT,
    put_files,
    snapshot_files,
    snapshot_manifest,
)


@pytest.fixture
def store(tmp_path: Path) -> LocalObjects:
    return LocalObjects(tmp_path)


def minted(
    store: LocalObjects, tag: str, rows: list[tuple[str, str, str]] | None = None
) -> SnapshotManifest:
    files = snapshot_files(tag, ["web"], rows or [])
    manifest = snapshot_manifest(tag, files)
    put_files(store, LAYOUT.snapshot(manifest.id), files)
    return mint(store, LAYOUT, manifest)


def test_a_minted_snapshot_is_read_back(store: LocalObjects) -> None:
    manifest = minted(store, "a")
    assert read_snapshot(store, LAYOUT, manifest.id) == manifest


def test_a_snapshot_with_a_missing_file_is_not_minted(store: LocalObjects) -> None:
    files = snapshot_files("a", ["web"])
    manifest = snapshot_manifest("a", files)
    with pytest.raises(CorruptError, match=r"documents\.parquet is missing"):
        mint(store, LAYOUT, manifest)
    put_files(store, LAYOUT.snapshot(manifest.id), files)
    store.put(f"{LAYOUT.snapshot(manifest.id)}/web/train/shard.00000.mds", b"short")
    with pytest.raises(CorruptError, match="has 5 bytes"):
        mint(store, LAYOUT, manifest)
    with pytest.raises(NotFoundError, match="no object"):
        read_snapshot(store, LAYOUT, manifest.id)


def test_minting_again_gives_the_first_manifest(store: LocalObjects) -> None:
    first = minted(store, "a")
    later = replace(first, minted_at="2027-01-01T00:00:00+00:00")
    assert mint(store, LAYOUT, later) == first
    files = (*first.files, digest_bytes(b"more", "more"))
    other = replace(first, files=files, content=content_hash(files))
    store.put(f"{LAYOUT.snapshot(first.id)}/more", b"more")
    with pytest.raises(AlreadyExistsError, match="the refresh is not deterministic"):
        mint(store, LAYOUT, other)


def test_a_manifest_that_contradicts_itself_is_refused(store: LocalObjects) -> None:
    manifest = snapshot_manifest("a", snapshot_files("a", ["web"]))
    for wrong in (replace(manifest, id="0" * 12), replace(manifest, content="0" * 64)):
        with pytest.raises(ValueError, match="contradicts itself"):
            mint(store, LAYOUT, wrong)


def test_an_altered_snapshot_is_found_when_it_is_read(store: LocalObjects) -> None:
    manifest = minted(store, "a")
    key = LAYOUT.snapshot_manifest(manifest.id)
    store.put(key, readable_json(replace(manifest, content="0" * 64)))
    with pytest.raises(CorruptError, match=r"manifest\.json was altered"):
        read_snapshot(store, LAYOUT, manifest.id)
    store.put(key, readable_json(manifest))
    store.delete(f"{LAYOUT.snapshot(manifest.id)}/web/holdout/shard.00000.mds")
    with pytest.raises(CorruptError, match=r"holdout/shard\.00000\.mds is missing"):
        read_snapshot(store, LAYOUT, manifest.id)
