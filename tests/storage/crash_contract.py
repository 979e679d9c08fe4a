"""Kill -9 before every store operation: the old or the new state, and a retry completes it.

Subclass ``CrashContract`` and give a fixture ``new_store``.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from storage.gc import find_garbage
from storage.head import Head, commit_change, history, read_head, read_head_number
from storage.lease import Lease
from storage.objects import ObjectStore
from storage.replay import next_replay, publish_replay
from storage.snapshots import mint, read_snapshot
from storage.suite import publish_suite, read_suite, suite_of
from storage.taking_back import rollback
from storage.transitions import with_snapshot, with_verdict
from tests.storage.building import (
    LAYOUT,
    first_head,
    put_files,
    snapshot_files,
    snapshot_manifest,
    version_record,
)
from tests.support.killing_store import (
    KillingObjects,
    count_operations,
    kill_points,
    run_killed,
)


def files_of(tag: str) -> dict[str, bytes]:
    return snapshot_files(tag, ["web"], [(f"{tag} d1", f"{tag} c1", "train")])


def snapshot_id(tag: str) -> str:
    return snapshot_manifest(tag, files_of(tag)).id


def refresh(store: ObjectStore, tag: str) -> None:
    files = files_of(tag)
    manifest = snapshot_manifest(tag, files)
    put_files(store, LAYOUT.snapshot(manifest.id), files)
    mint(store, LAYOUT, manifest)
    store.put(LAYOUT.marks(tag), b"marks")

    def change(head: Head | None) -> Head:
        head = head or first_head()
        suite = suite_of(read_suite(store, LAYOUT, head.suite) if head.suite else None, manifest)
        publish_suite(store, LAYOUT, suite)
        return with_snapshot(
            head,
            manifest.id,
            marks=LAYOUT.marks(tag),
            suite=suite.id,
            tokenizer=LAYOUT.tokenizer("t1"),
            by="me",
        )

    commit_change(store, LAYOUT, lambda head: head or first_head())
    commit_change(store, LAYOUT, change)


def learn(store: ObjectStore, number: int, tag: str, parent: str | None) -> None:
    with Lease.acquire(store, LAYOUT, "me") as lease:
        record = version_record(number, "PASS", snapshots=[snapshot_id(tag)], parent=parent)
        lease.set_note(record.update)
        learned = [(snapshot_id(tag), "web", 10)]
        replay = next_replay(None, learned, budget_tokens=80, seq_len=8, lineage="demo")
        publish_replay(store, LAYOUT, replay)

        def change(head: Head | None) -> Head:
            assert head is not None
            return with_verdict(head, record, replay=replay.id, by="me", lease_token=lease.token)

        lease.check()
        commit_change(store, LAYOUT, change)


def roll_back(store: ObjectStore) -> None:
    with Lease.acquire(store, LAYOUT, "me") as lease:

        def change(head: Head | None) -> Head:
            assert head is not None
            return rollback(
                head,
                lambda n: read_head_number(store, LAYOUT, n),
                to="1-00000001",
                by="me",
                reason="bad",
                lease_token=lease.token,
            )

        commit_change(store, LAYOUT, change)


@dataclass(frozen=True)
class Scene:
    before: Callable[[ObjectStore], None]
    action: Callable[[ObjectStore], None]


def _one_snapshot(store: ObjectStore) -> None:
    refresh(store, "a")


def _one_version(store: ObjectStore) -> None:
    refresh(store, "a")
    learn(store, 1, "a", None)
    refresh(store, "b")


def _two_versions(store: ObjectStore) -> None:
    _one_version(store)
    learn(store, 2, "b", "1-00000001")


SCENES = {
    "first refresh": Scene(lambda _: None, _one_snapshot),
    "refresh": Scene(_one_version, lambda store: refresh(store, "c")),
    "verdict": Scene(_one_version, lambda store: learn(store, 2, "b", "1-00000001")),
    "rollback": Scene(_two_versions, roll_back),
}


def state_of(store: ObjectStore) -> object:
    """What a reader sees, without times and lease tokens; reading it checks that it is whole."""
    head = read_head(store, LAYOUT)
    if head is None:
        return None
    for snapshot in head.snapshots:
        read_snapshot(store, LAYOUT, snapshot.id)
    if head.suite:
        read_suite(store, LAYOUT, head.suite)
    assert [state.number for state in history(store, LAYOUT)] == list(range(1, head.number + 1))
    return (
        head.number,
        head.action,
        head.champion,
        head.trunk,
        head.replay,
        head.marks,
        head.suite,
        head.snapshots,
        head.versions,
    )


def copy(source: ObjectStore, target: ObjectStore) -> ObjectStore:
    for info in source.list("lineages"):
        target.put(info.key, source.get(info.key))
    return target


class CrashContract:
    """Subclasses give a fixture ``new_store``: a function that returns an empty store."""

    @pytest.mark.parametrize("name", SCENES)
    def test_a_kill_at_any_operation_leaves_old_or_new_and_a_retry_completes(
        self, name: str, new_store: Callable[[], ObjectStore]
    ) -> None:
        scene = SCENES[name]
        before = new_store()
        scene.before(before)
        scratch = copy(before, new_store())
        allowed = [state_of(scratch)]
        operations = count_operations(scratch, scene.action)
        new = state_of(scratch)
        if name == "first refresh":
            allowed.append((1, "init", None, None, None, None, None, (), ()))
        seen: list[object] = []
        for point in kill_points(operations):
            store = copy(before, new_store())
            end = run_killed(lambda s=store, p=point: scene.action(KillingObjects(s, **p)))
            assert end.killed, f"{point}: {end}"
            found = state_of(store)
            assert found in [*allowed, new], point
            seen.append(found)
            scene.action(store)
            assert state_of(store) == new, point
            live = find_garbage(store, LAYOUT, grace_seconds=0, now=9e12)
            assert live == [], point
        assert seen[0] == allowed[0]
        assert seen[-1] == new
        assert operations > 8
