import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from storage.file_cache import FileCache
from storage.head import Head, commit_change, read_head
from storage.layout import Layout
from storage.local_objects import LocalObjects
from storage.near_duplicate_index import SEGMENT, open_index
from storage.near_duplicate_segment import Segment
from storage.snapshots import read_snapshot
from storage.transitions import refuse
from tasks.near_duplicates.config import NearDuplicateConfig
from tasks.near_duplicates.earlier import index_earlier
from tasks.readers import FieldNames
from tasks.refresh import refresh
from tasks.refresh_request import RefreshRequest, RefreshResult, TrainedTokenizer
from tasks.sources import SourceConfig
from tasks.split import HoldoutConfig
from tasks.who_saw import who_saw

_LAYOUT = Layout("demo")


def _text(seed: int, *, num_words: int = 80, changed: int = 0) -> str:
    """Random words; the first ``changed`` of them others than without."""
    rng, other = random.Random(seed), random.Random(seed + 10**9)
    words = [f"w{rng.getrandbits(16)}" for _ in range(num_words)]
    return " ".join([*(f"x{other.getrandbits(16)}" for _ in range(changed)), *words[changed:]])


def _write(path: Path, texts: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = ({"id": name, "text": text} for name, text in texts.items())
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def _request(data: Path, **changes: object) -> RefreshRequest:
    source = SourceConfig(
        name="web", uri=str(data), domain="web", licence="CC0-1.0", fields=FieldNames(id="id")
    )
    request = RefreshRequest(
        sources=(source,),
        tokenizer=TrainedTokenizer(290),
        seq_len=32,
        holdout=HoldoutConfig(min_clusters=3),
        near_duplicates=NearDuplicateConfig(),
    )
    return replace(request, **changes)  # pyright: ignore[reportArgumentType]  any field


def _refresh(store: LocalObjects, request: RefreshRequest, work: Path) -> RefreshResult:
    work.mkdir(exist_ok=True)
    return refresh(store, _LAYOUT, request, by="test", work_dir=work)


def _reasons(store: LocalObjects, snapshot: str | None) -> dict[str, str]:
    assert snapshot is not None
    path = store.local_path(f"{_LAYOUT.snapshot(snapshot)}/documents.parquet")
    rows = pq.read_table(path).to_pylist()
    return {row["document"].removeprefix("web/"): row["reason"] for row in rows}


def _kept(store: LocalObjects, snapshots: list[str | None]) -> set[str]:
    return {
        name for snapshot in snapshots for name, why in _reasons(store, snapshot).items() if not why
    }


def test_near_copies_in_the_batch_and_of_the_lineage_are_dropped_with_their_reason(
    store: LocalObjects, tmp_path: Path
) -> None:
    originals = {f"d{n}": _text(n) for n in range(12)}
    _write(tmp_path / "data" / "1.jsonl", originals | {"near": _text(3, changed=3)})
    first = _refresh(store, _request(tmp_path / "data"), tmp_path / "work")
    assert first.documents_dropped == {"near_duplicate_in_batch": 1}
    later = {"copy": _text(0).upper(), "near": _text(5, changed=4), "far": _text(7, changed=40)}
    _write(tmp_path / "data" / "2.jsonl", later | {"new": _text(99)})
    second = _refresh(store, _request(tmp_path / "data"), tmp_path / "work")
    assert second.documents_dropped == {"near_duplicate": 2}
    assert second.reason.endswith("from 4 documents; 2 were dropped (near_duplicate 2)")
    reasons = _reasons(store, second.snapshot)
    assert reasons == {"copy": "near_duplicate", "near": "near_duplicate", "far": "", "new": ""}


def test_a_near_copy_of_a_held_out_document_is_dropped(store: LocalObjects, tmp_path: Path) -> None:
    _write(tmp_path / "data" / "1.jsonl", {f"d{n}": _text(n) for n in range(20)})
    first = _refresh(store, _request(tmp_path / "data"), tmp_path / "work")
    assert first.holdout_documents == 3
    near = {f"near{n}": _text(n, changed=2) for n in range(20)}
    _write(tmp_path / "data" / "2.jsonl", near | {"new": _text(99)})
    second = _refresh(store, _request(tmp_path / "data"), tmp_path / "work")
    assert second.documents_dropped == {"near_duplicate": 20}


def test_who_saw_finds_what_a_text_nearly_repeats_and_says_how_nearly(
    store: LocalObjects, tmp_path: Path
) -> None:
    _write(tmp_path / "data" / "1.jsonl", {f"d{n}": _text(n) for n in range(12)})
    _refresh(store, _request(tmp_path / "data"), tmp_path / "work")
    _write(tmp_path / "data" / "2.jsonl", {f"d{n}": _text(n) for n in range(20, 32)})
    _refresh(store, _request(tmp_path / "data"), tmp_path / "work")
    head = read_head(store, _LAYOUT)
    assert head is not None
    near = NearDuplicateConfig()

    def asked(text: str) -> dict[str, float]:
        found = who_saw(
            store, _LAYOUT, [head], texts=[text], near=near, work_dir=tmp_path / "asking"
        )
        return {sighting.document: sighting.likeness for sighting in found}

    assert asked(_text(3)) == {"web/d3": 1.0}
    (likeness,) = asked(_text(25, changed=3)).values()
    assert asked(_text(25, changed=3)).keys() == {"web/d25"}
    assert near.threshold <= likeness < 1
    assert asked(_text(3, changed=40)) == {}
    assert asked("") == {}


def test_three_refreshes_keep_what_one_keeps(tmp_path: Path) -> None:
    rng = random.Random(1)
    names = [f"d{n}" for n in range(60)]
    texts = {name: _text(rng.randrange(15), changed=rng.randrange(0, 30, 5)) for name in names}
    parts = [names[:20], names[20:35], names[35:]]
    kept: list[set[str]] = []
    for way, files in (("whole", [names]), ("parts", parts)):
        store, data = LocalObjects(tmp_path / way / "store"), tmp_path / way / "data"
        minted: list[str | None] = []
        for number, part in enumerate(files):
            _write(data / f"{number}.jsonl", {name: texts[name] for name in part})
            minted.append(_refresh(store, _request(data), tmp_path / way / "work").snapshot)
        kept.append(_kept(store, minted))
    assert kept[0] == kept[1]
    assert 15 < len(kept[0]) < 60


def test_the_segment_names_the_rows_of_the_table_that_passed(
    store: LocalObjects, tmp_path: Path
) -> None:
    texts = {"short": "x", "d0": _text(0), "near": _text(0, changed=1), "d1": _text(1)}
    _write(tmp_path / "data" / "1.jsonl", texts | {f"e{n}": _text(n) for n in range(2, 9)})
    result = _refresh(store, _request(tmp_path / "data"), tmp_path / "work")
    assert result.snapshot is not None
    manifest = read_snapshot(store, _LAYOUT, result.snapshot)
    assert SEGMENT in {file.name for file in manifest.files}
    segment = Segment(store.get(f"{_LAYOUT.snapshot(manifest.id)}/{SEGMENT}"), "segment")
    assert segment.rows.tolist() == [1, *range(3, 11)]
    assert [part.snapshot for part in segment.parts] == [manifest.id]


def test_documents_of_a_refused_snapshot_may_come_again(
    store: LocalObjects, tmp_path: Path
) -> None:
    _write(tmp_path / "data" / "1.jsonl", {f"d{n}": _text(n) for n in range(12)})
    first = _refresh(store, _request(tmp_path / "data"), tmp_path / "work").snapshot
    assert first is not None

    def without_it(head: Head | None) -> Head:
        assert head is not None
        return refuse(head, first, suite=None, by="test", reason="a licence")

    commit_change(store, _LAYOUT, without_it)
    _write(tmp_path / "data" / "2.jsonl", {f"n{n}": _text(n, changed=1) for n in range(12)})
    second = _refresh(store, _request(tmp_path / "data"), tmp_path / "work")
    assert second.documents_dropped == {}


@pytest.mark.parametrize("num_before", [1, 9])
def test_documents_from_before_the_section_block_as_if_it_had_been_there(
    num_before: int, store: LocalObjects, tmp_path: Path
) -> None:
    for number in range(num_before):
        texts = {f"{number}-{n}": _text(100 * number + n) for n in range(12)}
        _write(tmp_path / "data" / f"{number}.jsonl", {**texts, f"short{number}": "x"})
        without = _request(tmp_path / "data", near_duplicates=None)
        assert _refresh(store, without, tmp_path / "work").holdout_documents
    near = {
        f"near{number}-{n}": _text(100 * number + n, changed=1)
        for number in (0, num_before - 1)
        for n in range(12)
    }
    _write(tmp_path / "data" / "last.jsonl", {**near, "new": _text(10**6)})
    result = _refresh(store, _request(tmp_path / "data"), tmp_path / "work")
    assert result.documents_dropped == {"near_duplicate": len(near)}
    assert _kept(store, [result.snapshot]) == {"new"}


def test_a_segment_that_is_made_later_is_that_of_a_refresh(tmp_path: Path) -> None:
    _write(tmp_path / "data" / "1.jsonl", {f"d{n}": _text(n) for n in range(40)})
    segments: list[Segment] = []
    for way, config in (("now", NearDuplicateConfig()), ("later", None)):
        store = LocalObjects(tmp_path / way)
        request = _request(tmp_path / "data", near_duplicates=config)
        snapshot = _refresh(store, request, tmp_path / "work").snapshot
        assert snapshot is not None
        cache, scheme = FileCache(tmp_path / "cache"), NearDuplicateConfig().scheme
        if config is None:
            index_earlier(store, _LAYOUT, snapshot, scheme, cache=cache, work_dir=tmp_path)
        index = open_index(store, _LAYOUT, (snapshot,), scheme, cache)
        segments += index.segments
    now, later = segments
    assert later.rows.tolist() == now.rows.tolist() == list(range(40))
    assert np.array_equal(later.prints, now.prints)
    assert np.array_equal(later.bands, now.bands)


def test_another_ngram_does_not_fit_the_lineage(store: LocalObjects, tmp_path: Path) -> None:
    _write(tmp_path / "data" / "1.jsonl", {f"d{n}": _text(n) for n in range(12)})
    _refresh(store, _request(tmp_path / "data"), tmp_path / "work")
    _write(tmp_path / "data" / "2.jsonl", {"new": _text(99)})
    changed = _request(tmp_path / "data", near_duplicates=NearDuplicateConfig(ngram=7))
    with pytest.raises(ValueError, match="indexed with ngram 5, not 7"):
        _refresh(store, changed, tmp_path / "work")


def test_a_scheme_that_does_not_fit_leaves_no_trace(store: LocalObjects, tmp_path: Path) -> None:
    request = _request(tmp_path / "data")
    changed = replace(request, near_duplicates=NearDuplicateConfig(seed=2))
    for number, way in enumerate((request, replace(request, near_duplicates=None))):
        texts = {f"{number}-{n}": _text(100 * number + n) for n in range(12)}
        _write(tmp_path / "data" / f"{number}.jsonl", texts)
        _refresh(store, way, tmp_path / "work")
    _write(tmp_path / "data" / "last.jsonl", {"near": _text(100, changed=1), "new": _text(10**6)})
    with pytest.raises(ValueError, match="indexed with seed 1, not 2"):
        _refresh(store, changed, tmp_path / "work")
    assert not list(store.list(_LAYOUT.all_near_duplicates))
    result = _refresh(store, request, tmp_path / "work")
    assert result.documents_dropped == {"near_duplicate": 1}


def test_a_threshold_changes_the_identity_of_a_snapshot(tmp_path: Path) -> None:
    _write(tmp_path / "data" / "1.jsonl", {f"d{n}": _text(n) for n in range(12)})
    found = {
        _refresh(
            LocalObjects(tmp_path / f"store{threshold}"),
            _request(tmp_path / "data", near_duplicates=NearDuplicateConfig(threshold=threshold)),
            tmp_path / "work",
        ).snapshot
        for threshold in (0.7, 0.8)
    }
    assert len(found) == 2


def test_the_eighth_snapshot_is_followed_by_a_merge(store: LocalObjects, tmp_path: Path) -> None:
    for number in range(9):
        texts = {f"{number}-{n}": _text(100 * number + n) for n in range(8)}
        _write(tmp_path / "data" / f"{number}.jsonl", texts)
        _refresh(store, _request(tmp_path / "data"), tmp_path / "work")
    near = {f"near{n}": _text(100 * n, changed=2) for n in range(9)}
    _write(tmp_path / "data" / "last.jsonl", near | {"new": _text(10**6)})
    assert len(list(store.list(_LAYOUT.all_near_duplicates))) == 2
    result = _refresh(store, _request(tmp_path / "data"), tmp_path / "work")
    assert result.documents_dropped == {"near_duplicate": 9}
