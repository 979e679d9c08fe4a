"""Copies made while somebody commits: heads first is a state that was; heads last may be none."""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path

import pytest

from storage.errors import CorruptError, NotFoundError
from storage.gc import delete_garbage, find_garbage
from storage.head import Head, history, read_head
from storage.local_objects import LocalObjects
from storage.manifest import verify
from storage.objects import ObjectStore
from storage.replay import read_replay
from storage.snapshots import read_snapshot
from storage.suite import read_suite
from tests.storage.building import LAYOUT
from tests.storage.crash_contract import learn, refresh

HEADS_FIRST = (True, False)
HEADS_LAST = (False, True)
LATER = 1e12
"""Seconds since the epoch when every grace time has passed."""


@pytest.fixture(autouse=True)
def no_flushing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a power cut would leave is not the matter here, and flushing takes most of the time."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def copy(
    source: ObjectStore,
    target: ObjectStore,
    passes: Sequence[bool],
    before_object: Callable[[int], None],
) -> int:
    """As a tool copies: list, then object by object; each pass either the heads or all else.

    Calls ``before_object`` with the number of the object that comes next; returns how many came.
    """
    numbers = count(1)
    number = 0
    for heads in passes:
        for info in source.list(LAYOUT.root):
            if info.key.startswith(f"{LAYOUT.heads}/") is not heads:
                continue
            number = next(numbers)
            before_object(number)
            try:
                body = source.get(info.key)
            except NotFoundError:
                # Removed since it was listed; tools say so, and go on.
                continue
            target.put(info.key, body)
    return number


def check(store: ObjectStore) -> Head:
    """The newest head of a store in which every head can be read with everything it names."""
    for head in history(store, LAYOUT):
        for record in head.snapshots:
            manifest = read_snapshot(store, LAYOUT, record.id)
            verify(store, LAYOUT.snapshot(record.id), manifest.files)
        if head.marks:
            store.get(head.marks)
        if head.suite:
            read_suite(store, LAYOUT, head.suite)
        if head.replay:
            read_replay(store, LAYOUT, head.replay)
    head = read_head(store, LAYOUT)
    assert head is not None
    return head


def one_version(folder: Path) -> ObjectStore:
    store = LocalObjects(folder)
    refresh(store, "a")
    learn(store, 1, "a", None)
    return store


def work_on(store: ObjectStore) -> None:
    """What a night brings: a refresh, an update, and garbage that goes."""
    refresh(store, "b")
    learn(store, 2, "b", "1-00000001")
    delete_garbage(store, find_garbage(store, LAYOUT, grace_seconds=0, now=LATER))


def copies(folder: Path, passes: Sequence[bool]) -> Iterator[ObjectStore]:
    """One copy for each object before which all that work may happen."""
    one_version(folder / "before")
    chosen = 1
    while True:
        source = LocalObjects(shutil.copytree(folder / "before", folder / f"{chosen}"))
        target = LocalObjects(folder / f"{chosen}-copy")

        def work_before(number: int, chosen: int = chosen, source: ObjectStore = source) -> None:
            if number == chosen:
                work_on(source)

        if copy(source, target, passes, work_before) < chosen:
            return
        yield target
        chosen += 1


def test_heads_first_is_a_state_that_was_and_work_goes_on_in_it(tmp_path: Path) -> None:
    made = 0
    for store in copies(tmp_path, HEADS_FIRST):
        head = check(store)
        version = len(head.versions) + 1
        refresh(store, "c")
        learn(store, version, "c", head.champion)
        assert check(store).champion == f"{version}-{version:08d}"
        made += 1
    assert made > 10


def test_heads_last_may_name_what_was_not_copied(tmp_path: Path) -> None:
    # Were this never so, the test above would prove nothing.
    def is_broken(store: ObjectStore) -> bool:
        try:
            check(store)
        except (CorruptError, NotFoundError):
            return True
        return False

    assert any(map(is_broken, copies(tmp_path, HEADS_LAST)))


def test_a_gap_in_the_copied_heads_is_found(tmp_path: Path) -> None:
    store = one_version(tmp_path / "store")
    store.delete(LAYOUT.head(2))
    with pytest.raises(CorruptError, match=r"has a gap below head 3: .*restore it from a copy"):
        history(store, LAYOUT)
