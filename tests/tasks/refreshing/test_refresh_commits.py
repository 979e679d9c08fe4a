"""A refresh is all or nothing, whoever kills it, refuses it or commits at the same time."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from storage.errors import CorruptError, HeadMovedError, LeaseLostError
from storage.head import commit, next_head
from storage.local_objects import LocalObjects
from storage.snapshots import read_snapshot
from tasks.documents import SourceRefusedError
from tests.support.killing_store import KillingObjects, count_operations, kill_points, run_killed
from tests.tasks.refreshing.small_refresh import (
    LAYOUT,
    comparable,
    head_of,
    refresh_once,
    request_for,
    source_in,
    write_documents,
)


def test_a_second_refresh_has_nothing_to_do(
    store: LocalObjects, data: Path, tmp_path: Path
) -> None:
    request = request_for(source_in(data))
    refresh_once(store, request, tmp_path / "work")
    before = head_of(store)
    again = refresh_once(store, request, tmp_path / "work")
    assert again.snapshot is None
    assert again.reason == "nothing new: all 1 files of the sources were read before"
    assert head_of(store) == before


def test_two_fresh_runs_give_the_same_snapshot_and_the_same_bytes(
    data: Path, tmp_path: Path
) -> None:
    write_documents(tmp_path / "code" / "1.jsonl", range(100, 120))
    web, code = source_in(data), source_in(tmp_path / "code", "code")
    stores = [LocalObjects(tmp_path / f"store{n}") for n in range(2)]
    for number, (store, sources) in enumerate(zip(stores, [(web, code), (code, web)], strict=True)):
        refresh_once(store, request_for(*sources), tmp_path / f"work{number}")
    bodies = [
        {
            info.key: store.get(info.key)
            for info in store.list(f"{LAYOUT.root}/snapshots")
            if not info.key.endswith("/manifest.json")
        }
        for store in stores
    ]
    assert bodies[0] == bodies[1]
    heads = [comparable(head_of(store)) for store in stores]
    assert heads[0] == heads[1]


def test_a_refused_source_changes_nothing(store: LocalObjects, data: Path, tmp_path: Path) -> None:
    (data / "broken.jsonl").write_text("{not json\n" * 50)
    with pytest.raises(SourceRefusedError, match="source 'web' is refused: 50 of 90"):
        refresh_once(store, request_for(source_in(data)), tmp_path / "work")
    assert list(store.list(LAYOUT.root)) == []
    assert list((tmp_path / "work").iterdir()) == []


def test_a_refresh_commits_on_top_of_a_head_that_moved_without_touching_its_data(
    store: LocalObjects, data: Path, tmp_path: Path
) -> None:
    refresh_once(store, request_for(source_in(data)), tmp_path / "work")
    write_documents(data / "2.jsonl", range(50, 70))

    class Meanwhile(KillingObjects):
        """Commits something else as soon as the snapshot is uploaded."""

        def put_file(self, key: str, path: Path, **options: Any) -> None:
            super().put_file(key, path, **options)
            if key.endswith("/consumed.json"):
                moved = next_head(head_of(store), action="promote", by="other", champion="v1")
                commit(store, LAYOUT, moved)

    result = refresh_once(Meanwhile(store), request_for(source_in(data)), tmp_path / "work")
    head = head_of(store)
    assert (head.champion, head.snapshots[-1].id, head.number) == ("v1", result.snapshot, 4)


def test_two_refreshes_at_once_have_one_winner(
    store: LocalObjects, data: Path, tmp_path: Path
) -> None:
    class Meanwhile(KillingObjects):
        """Another refresh, of other files, commits as soon as this one's snapshot is uploaded."""

        def put_file(self, key: str, path: Path, **options: Any) -> None:
            super().put_file(key, path, **options)
            if key.endswith("/consumed.json"):
                write_documents(data / "2.jsonl", range(50, 70))
                refresh_once(store, request_for(source_in(data)), tmp_path / "other")

    with pytest.raises(HeadMovedError, match="test committed head 2 of demo"):
        refresh_once(Meanwhile(store), request_for(source_in(data)), tmp_path / "work")
    (record,) = head_of(store).snapshots
    assert read_snapshot(store, LAYOUT, record.id).documents_read == 60


def test_a_lost_lease_commits_nothing(store: LocalObjects, data: Path, tmp_path: Path) -> None:
    commit(
        store,
        LAYOUT,
        next_head(None, action="init", by="newer", lineage="demo", lease_token=7),
    )
    with pytest.raises(LeaseLostError, match="under lease token 6"):
        refresh_once(store, request_for(source_in(data)), tmp_path / "work", lease_token=6)
    assert head_of(store).number == 1
    assert refresh_once(
        store, request_for(source_in(data)), tmp_path / "work", lease_token=8
    ).snapshot
    assert head_of(store).lease_token == 8


def test_altered_marks_are_found(store: LocalObjects, data: Path, tmp_path: Path) -> None:
    refresh_once(store, request_for(source_in(data)), tmp_path / "work")
    key = head_of(store).marks
    assert key is not None
    store.put(key, b"{}")
    with pytest.raises(CorruptError, match=r"marks/.*was altered"):
        refresh_once(store, request_for(source_in(data)), tmp_path / "work")


def test_a_refresh_that_is_killed_anywhere_ends_in_the_same_head_when_run_again(
    data: Path, tmp_path: Path
) -> None:
    write_documents(data / "1.jsonl", range(12))
    request = request_for(source_in(data))
    reference = LocalObjects(tmp_path / "reference")
    work = tmp_path / "work"
    operations = count_operations(reference, lambda store: refresh_once(store, request, work))
    wanted = comparable(head_of(reference))
    for number, point in enumerate(kill_points(operations)):
        root = tmp_path / f"store{number}"
        killing = KillingObjects(LocalObjects(root), **point)
        ended = run_killed(lambda store=killing: refresh_once(store, request, work))
        assert ended.killed, ended.error
        store = LocalObjects(root)
        refresh_once(store, request, work)
        assert comparable(head_of(store)) == wanted
        assert "nothing new" in refresh_once(store, request, work).reason
        shutil.rmtree(root)
