import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import CorruptError
from storage.file_cache import FileCache
from storage.gc import delete_garbage, find_garbage
from storage.head import Head, SnapshotRecord, commit_change
from storage.local_objects import LocalObjects
from storage.manifest import content_hash, digest_file
from storage.near_duplicate_index import (
    SEGMENT,
    NearDuplicateIndex,
    Slots,
    add_segment,
    live_merges,
    merge_complete,
    open_index,
    slots_of,
    unindexed,
)
from storage.near_duplicate_search import search
from storage.near_duplicate_segment import (
    Keys,
    Prints,
    Segment,
    SignatureScheme,
    merge_segments,
    write_segment,
)
from storage.objects import ObjectStore
from storage.snapshots import mint
from tests.storage.building import LAYOUT, first_head, put_files, snapshot_files, snapshot_manifest
from tests.support.killing_store import KillingObjects, count_operations, kill_points, run_killed

_SCHEME = SignatureScheme(method=1, ngram=5, bands=3, rows=2, seed=1)


def _signatures(count: int, seed: int, num_keys: int = 1 << 32) -> tuple[Keys, Prints]:
    rng = np.random.default_rng(seed)
    keys = rng.integers(0, num_keys, (count, _SCHEME.bands), np.uint32)
    return keys, rng.integers(0, 256, (count, _SCHEME.permutations), np.uint8)


def _write(path: Path, keys: Keys, prints: Prints, snapshot: str = "s") -> Segment:
    rows = np.arange(len(keys), dtype=np.uint32)
    write_segment(path, _SCHEME, snapshot, rows=rows, keys=keys, prints=prints)
    return Segment(path.read_bytes(), str(path))


def _refresh(store: LocalObjects, tag: str, work: Path, *, count: int = 3) -> str:
    """Mint a snapshot with a segment of ``count`` documents; none when it is 0."""
    files = snapshot_files(tag, ["web"])
    manifest = snapshot_manifest(tag, files)
    put_files(store, LAYOUT.snapshot(manifest.id), files)
    store.put(f"{LAYOUT.tokenizer('t1')}/manifest.json", b"{}")
    if count:
        path = work / tag
        _write(path, *_signatures(count, random.Random(tag).getrandbits(32)), manifest.id)
        store.put_file(f"{LAYOUT.snapshot(manifest.id)}/{SEGMENT}", path)
        digests = (*manifest.files, digest_file(path, SEGMENT))
        manifest = replace(manifest, files=digests, content=content_hash(digests))
    mint(store, LAYOUT, manifest)
    return manifest.id


def _found(index: NearDuplicateIndex, tag: str, *, count: int = 3) -> list[bool]:
    keys, prints = _signatures(count, random.Random(tag).getrandbits(32))
    return index.has(keys, prints, _SCHEME.permutations).tolist()


@pytest.fixture
def store(tmp_path: Path) -> LocalObjects:
    return LocalObjects(tmp_path / "store")


@pytest.fixture
def cache(tmp_path: Path) -> FileCache:
    return FileCache(tmp_path / "cache")


@settings(deadline=None)
@given(
    stored=st.lists(st.sampled_from([0, 1, 7, 2**31, 2**32 - 2, 2**32 - 1]), max_size=40),
    wanted=st.lists(st.integers(0, 2**32 - 1) | st.sampled_from([0, 7, 2**32 - 1]), max_size=10),
)
def test_a_key_is_found_wherever_it_is(stored: list[int], wanted: list[int]) -> None:
    keys = np.sort(np.array(stored, np.uint32))
    bands = np.stack([keys, np.argsort(keys).astype(np.uint32)])[None]
    prints = np.zeros((len(stored), 1), np.uint8)
    found = np.zeros(len(wanted), np.bool_)
    looked_up = np.array(wanted, np.uint32)[:, None]
    if stored:
        search(bands, prints, looked_up, np.zeros((len(wanted), 1), np.uint8), 1, found)
    assert found.tolist() == [key in stored for key in wanted]


@pytest.mark.parametrize("num_keys", [1 << 32, 40])
def test_a_signature_is_found_when_a_band_and_enough_of_the_print_agree(
    num_keys: int, tmp_path: Path
) -> None:
    keys, prints = _signatures(2000, 1, num_keys)
    segment = _write(tmp_path / "s", keys, prints)
    assert segment.has(keys, prints, 6).all()
    other_keys, other_prints = _signatures(300, 2, num_keys)
    other_prints[:100, :4] = prints[:100, :4]
    other_keys[:50, 1] = keys[:50, 1]
    shares_band = (other_keys[:, None, :] == keys[None]).any(2)
    equal = (other_prints[:, None, :] == prints[None]).sum(2)
    for minimum in (1, 4, 5):
        expected = (shares_band & (equal >= minimum)).any(1)
        assert np.array_equal(segment.has(other_keys, other_prints, minimum), expected)


def test_the_same_documents_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "other"):
        _write(tmp_path / name, *_signatures(100, 3))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


@settings(deadline=None, max_examples=20)
@given(counts=st.lists(st.integers(0, 30), min_size=1, max_size=5))
def test_a_merge_has_what_its_parts_have(
    counts: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("segments")
    made = [_signatures(count, number, 50) for number, count in enumerate(counts)]
    segments = [
        _write(folder / f"{number}", keys, prints, f"s{number}")
        for number, (keys, prints) in enumerate(made)
    ]
    merge_segments(folder / "merged", segments)
    merged = Segment((folder / "merged").read_bytes(), "merged")
    keys = np.concatenate([keys for keys, _ in made])
    whole = _write(folder / "whole", keys, np.concatenate([prints for _, prints in made]))
    assert np.array_equal(merged.prints, whole.prints)
    assert np.array_equal(merged.bands, whole.bands)
    assert [part.documents for part in merged.parts] == counts
    assert merged.rows.tolist() == [row for count in counts for row in range(count)]


def test_segments_of_two_schemes_are_not_merged(tmp_path: Path) -> None:
    one = _write(tmp_path / "one", *_signatures(2, 1))
    other = _write(tmp_path / "other", *_signatures(2, 2))
    other.scheme = replace(_SCHEME, seed=2)
    with pytest.raises(ValueError, match="segments of 2 schemes cannot be merged"):
        merge_segments(tmp_path / "merged", [one, other])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda body: body[:-64], "should have [0-9,]+ bytes for 5 documents, found"),
        (lambda body: b"PK" + body[2:], "is no segment of an index of near-duplicates"),
        (lambda body: body.replace(b'"ngram"', b'"Ngram"'), "Ngram"),
    ],
)
def test_a_segment_of_another_form_is_named(change, message: str, tmp_path: Path) -> None:  # pyright: ignore
    _write(tmp_path / "s", *_signatures(5, 1))
    with pytest.raises(CorruptError, match=message):
        Segment(change((tmp_path / "s").read_bytes()), "s")


def test_every_snapshot_that_counts_is_found_and_no_other(
    store: LocalObjects, cache: FileCache, tmp_path: Path
) -> None:
    known, refused, plain = (
        _refresh(store, tag, tmp_path, count=count) for tag, count in [("a", 3), ("b", 3), ("c", 0)]
    )
    head = first_head()
    records = [
        SnapshotRecord(id=known, state="learned"),
        SnapshotRecord(id=refused, state="refused"),
    ]
    head = replace(head, snapshots=(*records, SnapshotRecord(id=plain, state="pending")))
    slots = slots_of(head)
    assert slots == (known, None, plain)
    index = open_index(store, LAYOUT, slots, _SCHEME, cache)
    assert (_found(index, "a"), _found(index, "b")) == ([True] * 3, [False] * 3)
    assert index.num_documents == 3
    assert unindexed(store, LAYOUT, slots) == [plain]


def test_a_snapshot_without_a_segment_is_given_one_before_it_is_merged(
    store: LocalObjects, cache: FileCache, tmp_path: Path
) -> None:
    slots = tuple(_refresh(store, f"t{n}", tmp_path, count=n % 8) for n in range(8))
    assert merge_complete(store, LAYOUT, slots, cache=cache, work_dir=tmp_path) == 0
    path = tmp_path / "added"
    _write(path, *_signatures(3, random.Random("added").getrandbits(32)), slots[0])
    add_segment(store, LAYOUT, slots[0], path)
    assert unindexed(store, LAYOUT, slots) == []
    assert _found(open_index(store, LAYOUT, slots, _SCHEME, cache), "added") == [True] * 3
    assert merge_complete(store, LAYOUT, slots, cache=cache, work_dir=tmp_path) == 1
    index = open_index(store, LAYOUT, slots, _SCHEME, cache)
    assert (len(index.segments), _found(index, "added")) == (1, [True] * 3)


def test_a_document_whose_text_is_gone_still_blocks(
    store: LocalObjects, cache: FileCache, tmp_path: Path
) -> None:
    snapshot = _refresh(store, "a", tmp_path)
    for info in list(store.list(LAYOUT.snapshot(snapshot))):
        if not info.key.endswith((SEGMENT, "manifest.json")):
            store.delete(info.key)
    assert _found(open_index(store, LAYOUT, (snapshot,), _SCHEME, cache), "a") == [True] * 3


def test_signatures_of_another_kind_are_refused_by_field(
    store: LocalObjects, cache: FileCache, tmp_path: Path
) -> None:
    snapshot = _refresh(store, "a", tmp_path)
    with pytest.raises(ValueError, match=f"snapshot {snapshot} was indexed with ngram 5, not 4,"):
        open_index(store, LAYOUT, (snapshot,), replace(_SCHEME, ngram=4), cache)


def test_an_altered_segment_is_found_before_it_is_used(
    store: LocalObjects, cache: FileCache, tmp_path: Path
) -> None:
    snapshot = _refresh(store, "a", tmp_path)
    key = f"{LAYOUT.snapshot(snapshot)}/{SEGMENT}"
    body = bytearray(store.get(key))
    body[-70] ^= 1
    store.put(key, bytes(body))
    with pytest.raises(CorruptError, match=f"{key} was altered"):
        open_index(store, LAYOUT, (snapshot,), _SCHEME, cache)


def _lineage(store: LocalObjects, work: Path, num_snapshots: int) -> tuple[str, ...]:
    return tuple(_refresh(store, f"t{number}", work) for number in range(num_snapshots))


@pytest.mark.parametrize(
    ("num_snapshots", "num_segments", "num_merged"), [(7, 7, 0), (8, 1, 1), (21, 7, 2), (64, 1, 1)]
)
def test_complete_groups_of_eight_are_merged_into_the_largest(
    num_snapshots: int,
    num_segments: int,
    num_merged: int,
    store: LocalObjects,
    cache: FileCache,
    tmp_path: Path,
) -> None:
    slots = _lineage(store, tmp_path, num_snapshots)
    assert merge_complete(store, LAYOUT, slots, cache=cache, work_dir=tmp_path) == num_merged
    assert merge_complete(store, LAYOUT, slots, cache=cache, work_dir=tmp_path) == 0
    index = open_index(store, LAYOUT, slots, _SCHEME, cache)
    assert len(index.segments) == num_segments
    parts = [part.snapshot for segment in index.segments for part in segment.parts]
    assert parts == list(slots)
    assert all(_found(index, f"t{number}") == [True] * 3 for number in range(num_snapshots))


def test_a_refused_snapshot_leaves_the_merges_of_the_others(
    store: LocalObjects, cache: FileCache, tmp_path: Path
) -> None:
    slots = _lineage(store, tmp_path, 16)
    merge_complete(store, LAYOUT, slots, cache=cache, work_dir=tmp_path)
    fewer: Slots = (*slots[:3], None, *slots[4:])
    assert merge_complete(store, LAYOUT, fewer, cache=cache, work_dir=tmp_path) == 1
    index = open_index(store, LAYOUT, fewer, _SCHEME, cache)
    assert len(index.segments) == 2
    assert _found(index, "t3") == [False] * 3
    assert live_merges(store, LAYOUT, slots) & live_merges(store, LAYOUT, fewer)


def test_a_merge_that_was_not_finished_is_not_read(
    store: LocalObjects, cache: FileCache, tmp_path: Path
) -> None:
    slots = _lineage(store, tmp_path, 8)
    merge_complete(store, LAYOUT, slots, cache=cache, work_dir=tmp_path)
    (prefix,) = live_merges(store, LAYOUT, slots)
    before = store.get(f"{prefix}/manifest.json"), store.get(f"{prefix}/{SEGMENT}")
    store.delete(f"{prefix}/manifest.json")
    assert len(open_index(store, LAYOUT, slots, _SCHEME, cache).segments) == 8
    assert merge_complete(store, LAYOUT, slots, cache=cache, work_dir=tmp_path) == 1
    assert (store.get(f"{prefix}/manifest.json"), store.get(f"{prefix}/{SEGMENT}")) == before


def test_a_merge_that_is_killed_anywhere_is_the_same_when_run_again(
    store: LocalObjects, cache: FileCache, tmp_path: Path
) -> None:
    slots = _lineage(store, tmp_path, 8)

    def merge(into: ObjectStore) -> None:
        merge_complete(into, LAYOUT, slots, cache=cache, work_dir=tmp_path)

    whole = tmp_path / "whole"
    shutil.copytree(tmp_path / "store", whole)
    operations = count_operations(LocalObjects(whole), merge)
    wanted = {info.key: info.size for info in LocalObjects(whole).list(LAYOUT.root)}
    for number, point in enumerate(kill_points(operations)):
        root = tmp_path / f"store{number}"
        shutil.copytree(tmp_path / "store", root)
        copy = LocalObjects(root)
        killing = KillingObjects(copy, **point)
        assert run_killed(lambda store=killing: merge(store)).killed
        assert _found(open_index(copy, LAYOUT, slots, _SCHEME, cache), "t5") == [True] * 3
        merge(copy)
        assert {info.key: info.size for info in copy.list(LAYOUT.root)} == wanted
        shutil.rmtree(root)


def test_merges_that_a_larger_one_took_the_place_of_are_garbage(
    store: LocalObjects, cache: FileCache, tmp_path: Path
) -> None:
    slots = _lineage(store, tmp_path, 64)
    records = tuple(SnapshotRecord(id=slot, state="learned") for slot in slots)

    def with_all(head: Head | None) -> Head:
        return replace(head or first_head(), snapshots=records)

    for num_slots in range(8, 65, 8):
        merge_complete(store, LAYOUT, slots[:num_slots], cache=cache, work_dir=tmp_path)
    assert len({info.key.split("/")[3] for info in store.list(LAYOUT.all_near_duplicates)}) == 8
    commit_change(store, LAYOUT, with_all)
    garbage = find_garbage(store, LAYOUT, grace_seconds=0, now=9e12)
    delete_garbage(store, garbage)
    (left,) = {info.key.split("/")[3] for info in store.list(LAYOUT.all_near_duplicates)}
    assert live_merges(store, LAYOUT, slots) == {LAYOUT.near_duplicates(left)}
    assert len(open_index(store, LAYOUT, slots, _SCHEME, cache).segments) == 1
    assert find_garbage(store, LAYOUT, grace_seconds=0, now=9e12) == []
