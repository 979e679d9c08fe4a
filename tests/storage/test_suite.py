import json
from dataclasses import replace
from pathlib import Path

import pytest

from storage.errors import CorruptError
from storage.local_objects import LocalObjects
from storage.manifest import FileDigest, canonical_json, identity_of, readable_json
from storage.suite import (
    SuiteTask,
    publish_suite,
    read_suite,
    suite_of,
    suite_with_tasks,
    suite_without,
)
from tests.storage.building import LAYOUT, snapshot_files, snapshot_manifest

ONE = snapshot_manifest("one", snapshot_files("one", ["web", "code"]))
TWO = snapshot_manifest("two", snapshot_files("two", ["web"]))
EMPTY = snapshot_manifest("three", snapshot_files("three", ["web"]), holdout_documents=0)


def test_a_suite_holds_the_holdouts_of_all_snapshots_in_order() -> None:
    suite = suite_of(suite_of(None, ONE), TWO)
    expected = [("code", ONE.id), *sorted([("web", ONE.id), ("web", TWO.id)])]
    assert [(item.domain, item.snapshot) for item in suite.slices] == expected
    assert suite.slices[0].name == f"code@{ONE.id}"
    assert [file.name for file in suite.slices[0].files] == ["code/holdout/shard.00000.mds"]


def test_the_id_is_that_of_the_content_whatever_the_order() -> None:
    suite = suite_of(suite_of(None, ONE), TWO)
    assert suite == suite_of(suite_of(None, TWO), ONE)
    assert suite == suite_of(suite, ONE)
    assert suite.id != suite_of(None, ONE).id


def test_an_empty_holdout_adds_nothing() -> None:
    assert suite_of(suite_of(None, ONE), EMPTY) == suite_of(None, ONE)


def test_a_refused_snapshot_leaves_the_suite() -> None:
    assert suite_without(suite_of(suite_of(None, ONE), TWO), TWO.id) == suite_of(None, ONE)


QUIZ = SuiteTask(
    name="quiz",
    kind="cloze",
    items=3,
    clusters=2,
    file=FileDigest("1f.json", 10, "ab"),
    origin="configured",
)


def test_tasks_stay_when_holdouts_come_and_change_the_id_only_with_their_content() -> None:
    suite = suite_with_tasks(suite_of(None, ONE), [QUIZ])
    assert suite.id != suite_of(None, ONE).id
    assert suite_with_tasks(suite, [QUIZ]) == suite
    assert suite_with_tasks(suite, ()) == suite_of(None, ONE)
    assert suite_of(suite, TWO).tasks == (QUIZ,)
    other = replace(QUIZ, name="another")
    assert suite_with_tasks(suite, [QUIZ, other]) == suite_with_tasks(suite, [other, QUIZ])
    with pytest.raises(ValueError, match="two tasks of the suite are called 'quiz'; rename one"):
        suite_with_tasks(suite, [QUIZ, QUIZ])


def test_what_was_made_of_a_refused_snapshot_leaves_with_it() -> None:
    minted = replace(QUIZ, name="cloze", origin="cloze", snapshot=TWO.id)
    suite = suite_with_tasks(suite_of(suite_of(None, ONE), TWO), [QUIZ, minted])
    assert suite_without(suite, TWO.id) == suite_with_tasks(suite_of(None, ONE), [QUIZ])


def test_a_suite_of_before_there_were_tasks_is_read_under_its_id(tmp_path: Path) -> None:
    store = LocalObjects(tmp_path)
    suite = suite_of(None, ONE)
    assert suite.id == identity_of(suite.slices)[:12]
    fields = json.loads(canonical_json(suite))
    del fields["tasks"]
    store.put(LAYOUT.suite_manifest(suite.id), readable_json(fields))
    assert read_suite(store, LAYOUT, suite.id) == suite


def test_an_altered_suite_is_found_when_it_is_read(tmp_path: Path) -> None:
    store = LocalObjects(tmp_path)
    suite = suite_of(None, ONE)
    publish_suite(store, LAYOUT, suite)
    publish_suite(store, LAYOUT, suite)
    assert read_suite(store, LAYOUT, suite.id) == suite
    key = LAYOUT.suite_manifest(suite.id)
    body = canonical_json(suite).replace(b'"tokens":20', b'"tokens":21')
    store.put(key, readable_json(json.loads(body)))
    with pytest.raises(CorruptError, match="was altered: its content has the id"):
        read_suite(store, LAYOUT, suite.id)
