from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import AlreadyExistsError, CorruptError, NotFoundError
from storage.local_objects import LocalObjects
from storage.manifest import content_hash, digest_bytes, readable_json
from storage.snapshots import DOCUMENTS, SnapshotManifest, known_documents, mint, read_snapshot
from tests.storage.building import (
    LAYOUT,
    documents_parquet,
    key16,
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


def test_known_documents_answer_for_all_snapshots(store: LocalObjects) -> None:
    one = minted(store, "a", [("d1", "c1", "train"), ("d2", "c2", "holdout")])
    two = minted(store, "b", [("d3", "c1", "train"), ("d4", "c4", "dropped")])
    known = known_documents(store, LAYOUT, [one.id, two.id])
    assert len(known) == 4
    assert all(known.has(key16(f"d{n}")) for n in (1, 2, 3, 4))
    assert not known.has(key16("d5"))
    assert known.split_of(key16("c1")) == "train"
    assert known.split_of(key16("c2")) == "holdout"
    assert known.split_of(key16("c4")) is None
    assert not known_documents(store, LAYOUT, [one.id]).has(key16("d3"))
    nothing = known_documents(store, LAYOUT, [])
    assert not nothing.has(key16("d1"))
    assert nothing.split_of(key16("c1")) is None


DIGESTS = st.binary(min_size=14, max_size=14).flatmap(
    lambda start: st.sampled_from([start + b"\0\0", start + b"\0\1", start + b"\1\0"])
)


@settings(deadline=None)
@given(inside=st.sets(DIGESTS, max_size=20), others=st.sets(DIGESTS, max_size=20))
def test_digests_are_told_apart_exactly(inside: set[bytes], others: set[bytes]) -> None:
    import numpy as np

    from storage.snapshots import KnownDocuments

    keys = np.unique(np.array(sorted(inside), dtype="S16"))
    known = KnownDocuments(keys, keys[:0], keys)
    for digest in inside | others:
        assert known.has(digest) == (digest in inside)
        assert (known.split_of(digest) == "train") == (digest in inside)


def test_a_cluster_on_both_sides_counts_as_held_out(store: LocalObjects) -> None:
    manifest = minted(store, "a", [("d1", "c1", "train"), ("d2", "c1", "holdout")])
    assert known_documents(store, LAYOUT, [manifest.id]).split_of(key16("c1")) == "holdout"


def test_an_altered_table_of_documents_is_not_used(store: LocalObjects) -> None:
    manifest = minted(store, "a", [("d1", "c1", "train")])
    key = f"{LAYOUT.snapshot(manifest.id)}/{DOCUMENTS}"
    body = store.get(key)
    store.put(key, body[:-1] + b"X")
    with pytest.raises(CorruptError, match=r"documents\.parquet was altered"):
        known_documents(store, LAYOUT, [manifest.id])


def test_a_table_of_another_form_is_not_used(store: LocalObjects) -> None:
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    target = io.BytesIO()
    pq.write_table(pa.table({"content": ["x"], "cluster_key": ["y"], "split": ["train"]}), target)
    for body, complaint in [
        (target.getvalue(), "should have the columns content and cluster_key of 16 bytes"),
        (b"no parquet", "cannot be read as Parquet"),
    ]:
        files = {DOCUMENTS: body}
        manifest = snapshot_manifest(complaint, files)
        put_files(store, LAYOUT.snapshot(manifest.id), files)
        mint(store, LAYOUT, manifest)
        with pytest.raises(CorruptError, match=complaint):
            known_documents(store, LAYOUT, [manifest.id])


def test_a_snapshot_without_a_table_of_documents_is_not_used(store: LocalObjects) -> None:
    files = {"web/train/shard": b"x"}
    manifest = snapshot_manifest("a", files)
    put_files(store, LAYOUT.snapshot(manifest.id), files)
    mint(store, LAYOUT, manifest)
    with pytest.raises(CorruptError, match=r"names no documents\.parquet"):
        known_documents(store, LAYOUT, [manifest.id])


def test_many_rows_survive_chunks_and_slices(store: LocalObjects) -> None:
    rows = [(f"d{n}", f"c{n}", "train" if n % 2 else "holdout") for n in range(3000)]
    assert len(documents_parquet(rows)) > 3000
    known = known_documents(store, LAYOUT, [minted(store, "a", rows).id])
    assert len(known) == 3000
    assert all(known.split_of(key16(cluster)) == split for _, cluster, split in rows)
