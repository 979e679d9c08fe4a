"""Who knows the text of a document that was dropped: who learned what it repeats."""

from pathlib import Path

import numpy as np
import pytest

from storage.file_cache import FileCache
from storage.local_objects import LocalObjects
from storage.near_duplicate_index import SEGMENT
from storage.snapshots import read_snapshot
from tasks.near_duplicates.config import NearDuplicateConfig
from tasks.near_duplicates.dropped import DROPPED_SEGMENT, signatures_of_rows
from tasks.near_duplicates.signatures import signatures_of
from tasks.who_saw import who_saw
from tests.tasks.forget.scene import LAYOUT, Scene, words


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """A lineage that has a copy and a near copy of what it knows."""
    scene = Scene(LocalObjects(tmp_path / "store"), tmp_path)
    scene.write("1.jsonl", {f"d{n}": words(n) for n in range(12)} | {"in": words(7, changed=3)})
    scene.refresh()
    scene.write("2.jsonl", {"copy": words(3), "near": words(5, changed=4), "new": words(99)})
    scene.refresh()
    return scene


def _asked(scene: Scene, *ids: str, near: bool = True) -> list[tuple[str, str, float]]:
    found = who_saw(
        scene.store,
        LAYOUT,
        [scene.head],
        ids=ids,
        near=scene.near if near else None,
        work_dir=scene.folder / "asking",
    )
    return [(one.document, one.twin_of, one.likeness) for one in found]


def test_of_a_dropped_document_what_it_repeats_is_named_behind_it(scene: Scene) -> None:
    assert _asked(scene, "copy", near=False) == [
        ("web/copy", "", 1.0),
        ("web/d3", "web/copy", 1.0),
    ]
    asked, twin = _asked(scene, "near")
    assert asked == ("web/near", "", 1.0)
    assert twin[:2] == ("web/d5", "web/near")
    assert 0.7 <= twin[2] < 1
    assert _asked(scene, "near", near=False) == [("web/near", "", 1.0)]
    assert [one[:2] for one in _asked(scene, "in")] == [("web/in", ""), ("web/d7", "web/in")]
    # What was asked for itself is no twin, and what is kept has none.
    assert _asked(scene, "copy", "d3") == [("web/d3", "", 1.0), ("web/copy", "", 1.0)]
    assert _asked(scene, "d5") == [("web/d5", "", 1.0)]


def test_a_snapshot_keeps_the_signatures_of_what_was_dropped_by_row(scene: Scene) -> None:
    config = NearDuplicateConfig()
    last = read_snapshot(scene.store, LAYOUT, scene.head.snapshots[-1].id)
    assert {SEGMENT, DROPPED_SEGMENT} <= {file.name for file in last.files}
    names = [row["document"] for row in scene.table(last.id)]
    near, new = names.index("web/near"), names.index("web/new")
    cache = FileCache(scene.folder / "cache")
    found = signatures_of_rows(scene.store, LAYOUT, last, range(len(names)), config.scheme, cache)
    # The copy was dropped before near copies were looked for.
    assert sorted(found) == sorted((near, new))
    for row, text in ((near, words(5, changed=4)), (new, words(99))):
        expected = signatures_of([text], config.scheme)
        assert np.array_equal(found[row].keys, expected.keys)
        assert np.array_equal(found[row].prints, expected.prints)
    other = NearDuplicateConfig(seed=2).scheme
    assert signatures_of_rows(scene.store, LAYOUT, last, [near], other, cache) == {}
