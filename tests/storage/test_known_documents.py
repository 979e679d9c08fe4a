"""What a lineage knows: exact, whatever the machine has kept of it."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import CorruptError
from storage.known_documents import KnownDocuments, known_documents
from storage.known_piece import KnownPiece, sorted_keys
from storage.local_objects import LocalObjects
from storage.manifest import content_hash, digest_bytes, readable_json
from storage.snapshots import DOCUMENTS, SnapshotManifest, mint
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
    return LocalObjects(tmp_path / "store")


def minted(
    store: LocalObjects, tag: str, rows: list[tuple[str, str, str]] | None = None
) -> SnapshotManifest:
    files = snapshot_files(tag, ["web"], rows or [])
    manifest = snapshot_manifest(tag, files)
    put_files(store, LAYOUT.snapshot(manifest.id), files)
    return mint(store, LAYOUT, manifest)


def lineage(store: LocalObjects, count: int) -> list[str]:
    """Snapshots of one document to train on, one held out and one that all have."""
    rows = [
        [(f"t{n}", f"c{n}", "train"), (f"h{n}", f"k{n}", "holdout"), ("same", "c0", "dropped")]
        for n in range(count)
    ]
    return [minted(store, f"s{n}", own).id for n, own in enumerate(rows)]


def answers(known: KnownDocuments, count: int) -> list[tuple[bool, bool, str | None, str | None]]:
    """For ``count`` snapshots of ``lineage``, and as many that are not there."""
    return [
        (
            known.has(key16(f"t{n}")),
            known.has(key16(f"h{n}")),
            known.split_of(key16(f"c{n}")),
            known.split_of(key16(f"k{n}")),
        )
        for n in range(2 * count)
    ]


def test_the_cache_changes_no_answer_and_holds_few_files(
    store: LocalObjects, tmp_path: Path
) -> None:
    ids = lineage(store, 75)
    expected = [(True, True, "train", "holdout")] * 75 + [(False, False, None, None)] * 75
    assert answers(known_documents(store, LAYOUT, ids), 75) == expected
    for count in (75, 75, 3, 70, 75):
        known = known_documents(store, LAYOUT, ids[:count], cache=tmp_path / "known")
        assert answers(known, 75)[:count] == expected[:count]
        assert answers(known, 75)[count:] == [(False, False, None, None)] * (150 - count)
        assert known.has(key16("same"))
    # One of 64, one of 8, three of one snapshot each.
    assert len(list((tmp_path / "known").iterdir())) == 5


def test_a_table_is_read_once_and_then_never_again(store: LocalObjects, tmp_path: Path) -> None:
    ids = lineage(store, 17)
    known_documents(store, LAYOUT, ids[:15], cache=tmp_path / "known")
    for snapshot in ids[:15]:
        store.delete(f"{LAYOUT.snapshot(snapshot)}/{DOCUMENTS}")
    known = known_documents(store, LAYOUT, ids, cache=tmp_path / "known")
    assert answers(known, 17)[:17] == [(True, True, "train", "holdout")] * 17
    with pytest.raises(CorruptError, match=r"documents\.parquet is missing"):
        known_documents(store, LAYOUT, ids)


@pytest.mark.parametrize("damage", ["flipped", "short", "empty", "swapped", "gone"])
def test_a_damaged_piece_is_made_again(store: LocalObjects, tmp_path: Path, damage: str) -> None:
    ids = lineage(store, 10)
    cache = tmp_path / "known"
    known_documents(store, LAYOUT, ids, cache=cache)
    files = sorted(cache.iterdir())
    before = {path: path.read_bytes() for path in files}
    for path, other in zip(files, [*files[1:], files[0]], strict=True):
        body = bytearray(before[path])
        body[-3] ^= 1
        damaged = {
            "flipped": bytes(body),
            "short": body[:-8],
            "empty": b"",
            "swapped": before[other],
        }
        path.unlink()
        if damage != "gone":
            path.write_bytes(damaged[damage])
    known = known_documents(store, LAYOUT, ids, cache=cache)
    assert answers(known, 10)[:10] == [(True, True, "train", "holdout")] * 10
    assert answers(known, 10)[10:] == [(False, False, None, None)] * 10
    assert {path: path.read_bytes() for path in cache.iterdir()} == before


def test_a_snapshot_whose_content_has_changed_is_read_again(
    store: LocalObjects, tmp_path: Path
) -> None:
    ids = lineage(store, 9)
    old = known_documents(store, LAYOUT, ids, cache=tmp_path / "known")
    body = documents_parquet([("t3", "c3", "train")])
    manifest = minted(store, "s3b", [("t3", "c3", "train")])
    files = tuple(
        digest_bytes(body, DOCUMENTS) if file.name == DOCUMENTS else file for file in manifest.files
    )
    changed = replace(
        snapshot_manifest("s3", snapshot_files("s3", ["web"])),
        files=files,
        content=content_hash(files),
    )
    assert changed.id == ids[3]
    store.put(f"{LAYOUT.snapshot(ids[3])}/{DOCUMENTS}", body)
    store.put(LAYOUT.snapshot_manifest(ids[3]), readable_json(changed))
    known = known_documents(store, LAYOUT, ids, cache=tmp_path / "known")
    assert not known.has(key16("h3"))
    assert known.split_of(key16("k3")) is None
    assert known.has(key16("t3"))
    # What was opened before stays what it was.
    assert old.has(key16("h3"))


def test_contents_that_must_not_come_in_are_known(store: LocalObjects, tmp_path: Path) -> None:
    ids = lineage(store, 2)
    out = [key16("forgotten"), key16("another")]
    for cache in (None, tmp_path / "known"):
        known = known_documents(store, LAYOUT, ids, out, cache=cache)
        assert known.has(key16("forgotten"))
        assert known.has(key16("t1"))
        assert known.split_of(key16("forgotten")) is None
        assert known_documents(store, LAYOUT, [], out, cache=cache).has(key16("another"))


def test_known_documents_answer_for_all_snapshots(store: LocalObjects) -> None:
    one = minted(store, "a", [("d1", "c1", "train"), ("d2", "c2", "holdout")])
    two = minted(store, "b", [("d3", "c1", "train"), ("d4", "c4", "dropped")])
    known = known_documents(store, LAYOUT, [one.id, two.id])
    assert all(known.has(key16(f"d{n}")) for n in (1, 2, 3, 4))
    assert not known.has(key16("d5"))
    assert known.split_of(key16("c1")) == "train"
    assert known.split_of(key16("c2")) == "holdout"
    assert known.split_of(key16("c4")) is None
    assert not known_documents(store, LAYOUT, [one.id]).has(key16("d3"))
    nothing = known_documents(store, LAYOUT, [])
    assert not nothing.has(key16("d1"))
    assert nothing.split_of(key16("c1")) is None


DIGESTS = st.binary(min_size=2, max_size=2).flatmap(
    lambda start: st.sampled_from(
        [start * 4 + end for end in (b"\0" * 8, b"\0" * 7 + b"\1", b"\xff" * 8)]
    )
)


@settings(deadline=None)
@given(
    inside=st.sets(DIGESTS, max_size=40),
    more=st.sets(DIGESTS, max_size=20),
    others=st.sets(DIGESTS, max_size=20),
)
def test_digests_are_told_apart_exactly_one_by_one_and_together(
    inside: set[bytes], more: set[bytes], others: set[bytes]
) -> None:
    def piece(contents: set[bytes], held_out: set[bytes], trained_on: set[bytes]) -> KnownPiece:
        kinds = (contents, held_out, trained_on, contents)
        return KnownPiece(*(sorted_keys(np.array(list(keys), "S16")) for keys in kinds))

    known = KnownDocuments([piece(inside, more, inside), piece(more, set(), others)])
    asked = list(inside | more | others)
    asked += [digest[::-1] for digest in asked]
    together = np.array(asked, "S16")
    assert known.has_all(together).tolist() == [digest in inside | more for digest in asked]
    assert [known.has(digest) for digest in asked] == known.has_all(together).tolist()
    assert known.has_paragraphs(together).tolist() == known.has_all(together).tolist()
    held_out, trained_on = known.splits_of(together)
    assert held_out.tolist() == [digest in more for digest in asked]
    assert trained_on.tolist() == [digest in (inside | others) - more for digest in asked]
    sides = [
        "holdout" if held else "train" if trained else None
        for held, trained in zip(held_out, trained_on, strict=True)
    ]
    assert [known.split_of(digest) for digest in asked] == sides


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
    assert known.has_all(np.array([key16(name) for name, _, _ in rows], "S16")).all()
    assert all(known.split_of(key16(cluster)) == split for _, cluster, split in rows)
