from pathlib import Path

import pytest

from storage.errors import CorruptError
from storage.layout import Layout
from storage.local_objects import LocalObjects
from tasks.marks import publish_marks, read_marks

_LAYOUT = Layout("demo")
_MARKS = {"/data/é.jsonl": "5-1", "/data/a.jsonl": "7-2"}


def test_marks_come_back_and_equal_marks_have_one_key(tmp_path: Path) -> None:
    store = LocalObjects(tmp_path)
    key = publish_marks(store, _LAYOUT, _MARKS)
    assert publish_marks(store, _LAYOUT, dict(reversed(_MARKS.items()))) == key
    assert read_marks(store, key) == _MARKS


def test_a_lineage_that_has_read_nothing_has_no_marks(tmp_path: Path) -> None:
    assert read_marks(LocalObjects(tmp_path), None) == {}


def test_missing_and_altered_marks_are_found(tmp_path: Path) -> None:
    store = LocalObjects(tmp_path)
    key = publish_marks(store, _LAYOUT, _MARKS)
    store.put(key, b'{"/data/a.jsonl":"7-3"}')
    with pytest.raises(CorruptError, match="was altered: its content has the digest"):
        read_marks(store, key)
    store.put(key, b'{"/data/a.jsonl"8"7-3"}')
    with pytest.raises(CorruptError, match=r"was altered: it is no JSON any more .*from a copy"):
        read_marks(store, key)
    store.delete(key)
    with pytest.raises(CorruptError, match="expected the consumed marks at lineages/demo/marks/"):
        read_marks(store, key)
