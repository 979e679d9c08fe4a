from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from storage.errors import CorruptError, HeadMovedError, LeaseLostError, NotFoundError
from storage.head import (
    Head,
    commit,
    commit_change,
    history,
    next_head,
    read_head,
    read_head_number,
)
from storage.layout import Layout
from storage.local_objects import LocalObjects
from storage.manifest import readable_json

LAYOUT = Layout("demo")


@pytest.fixture
def store(tmp_path: Path) -> LocalObjects:
    return LocalObjects(tmp_path)


def first() -> Head:
    return next_head(None, lineage="demo", action="init", by="me")


def chain(store: LocalObjects, length: int) -> Head:
    head = first()
    commit(store, LAYOUT, head)
    for number in range(2, length + 1):
        head = next_head(head, action="refresh", by="me", marks=f"marks-{number}")
        commit(store, LAYOUT, head)
    return head


def test_a_lineage_without_heads_has_no_head(store: LocalObjects) -> None:
    assert read_head(store, LAYOUT) is None
    assert history(store, LAYOUT) == []


def test_the_newest_head_and_the_history_are_read_back(store: LocalObjects) -> None:
    head = chain(store, 4)
    assert read_head(store, LAYOUT) == head
    assert [state.number for state in history(store, LAYOUT)] == [1, 2, 3, 4]
    assert read_head_number(store, LAYOUT, 4) == head
    with pytest.raises(NotFoundError, match="heads/5"):
        read_head_number(store, LAYOUT, 5)


@pytest.mark.parametrize(
    "hint", [None, b'{"number":1}', b'{"number":99}', b'{"number":true}', b"[]", b"", b'{"n":1}']
)
def test_the_hint_is_never_trusted(store: LocalObjects, hint: bytes | None) -> None:
    head = chain(store, 12)
    store.delete(LAYOUT.head_hint)
    if hint is not None:
        store.put(LAYOUT.head_hint, hint)
    assert read_head(store, LAYOUT) == head


def test_a_head_is_committed_once_and_its_own_bytes_are_its_own(store: LocalObjects) -> None:
    head = chain(store, 2)
    mine = next_head(head, action="refresh", by="me", marks="mine")
    commit(store, LAYOUT, mine)
    commit(store, LAYOUT, mine)
    with pytest.raises(HeadMovedError, match="somebody else committed head 3 of demo"):
        commit(store, LAYOUT, next_head(head, action="refresh", by="you", marks="yours"))
    assert read_head(store, LAYOUT) == mine


def test_gaps_other_lineages_and_old_leases_are_refused(store: LocalObjects) -> None:
    head = chain(store, 1)
    with pytest.raises(ValueError, match="head 2 does not exist"):
        commit(store, LAYOUT, replace(head, number=3))
    with pytest.raises(ValueError, match="cannot commit a head of other to demo"):
        commit(store, LAYOUT, replace(head, lineage="other"))
    newer = next_head(head, action="update", by="new holder", lease_token=7)
    commit(store, LAYOUT, newer)
    late = next_head(newer, action="update", by="late", lease_token=6)
    with pytest.raises(LeaseLostError, match="new holder wrote head 2 under token 7"):
        commit(store, LAYOUT, late)
    assert next_head(newer, action="reject", by="me").lease_token == 7


def test_an_altered_or_copied_head_is_corrupt(store: LocalObjects) -> None:
    head = chain(store, 3)
    store.put(LAYOUT.head(3), readable_json(replace(head, number=2)))
    with pytest.raises(CorruptError, match="says it is head 2 of demo, expected head 3"):
        read_head(store, LAYOUT)
    store.put(LAYOUT.head(3), readable_json(head))
    store.delete(LAYOUT.head(2))
    with pytest.raises(CorruptError, match="has a gap below head 3"):
        history(store, LAYOUT)


def test_changes_of_racing_writers_all_arrive(store: LocalObjects) -> None:
    chain(store, 1)

    def add(name: str) -> None:
        def change(head: Head | None) -> Head:
            assert head is not None
            return next_head(head, action="refresh", by=name, reason=f"{head.reason}{name}")

        commit_change(store, LAYOUT, change)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, "abcdefgh"))
    newest = read_head(store, LAYOUT)
    assert newest is not None
    assert sorted(newest.reason) == list("abcdefgh")
    assert newest.number == 9


def test_a_change_that_is_in_already_commits_nothing(store: LocalObjects) -> None:
    head = chain(store, 2)
    assert commit_change(store, LAYOUT, lambda newest: newest or first()) == head
    assert len(history(store, LAYOUT)) == 2


def test_an_expectation_that_fails_ends_the_attempt(store: LocalObjects) -> None:
    chain(store, 2)

    def expect(head: Head | None) -> None:
        raise HeadMovedError("the champion moved")

    with pytest.raises(HeadMovedError, match="the champion moved"):
        commit_change(
            store, LAYOUT, lambda head: next_head(head, action="a", by="b"), expect=expect
        )
    assert len(history(store, LAYOUT)) == 2
