from dataclasses import replace
from pathlib import Path

import pytest

from storage.errors import CorruptError
from storage.gc import delete_garbage, find_garbage
from storage.head import Head, commit_change, read_head, read_head_number
from storage.lease import Lease
from storage.local_objects import LocalObjects
from storage.manifest import digest_bytes, publish
from storage.models import ModelManifest, publish_model, weights_hash
from storage.snapshots import mint
from storage.suite import SuiteTask, publish_suite, suite_of, suite_with_tasks
from storage.taken_over import TakenOverMark
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

LATER = 9e12
"""A time at which everything is past its grace."""


@pytest.fixture
def store(tmp_path: Path) -> LocalObjects:
    return LocalObjects(tmp_path)


def refresh(store: LocalObjects, tag: str) -> str:
    files = snapshot_files(tag, ["web"])
    manifest = snapshot_manifest(tag, files)
    put_files(store, LAYOUT.snapshot(manifest.id), files)
    mint(store, LAYOUT, manifest)
    store.put(LAYOUT.marks(tag), b"marks")
    store.put(LAYOUT.refresh_report(manifest.id), b"page")
    items = digest_bytes(f"items of {tag}".encode(), f"{tag}.json")
    store.put(f"{LAYOUT.suite_items}/{items.name}", f"items of {tag}".encode())
    task = SuiteTask(
        name="quiz", kind="cloze", items=1, clusters=1, file=items, origin="configured"
    )
    suite = suite_with_tasks(suite_of(None, manifest), [task])
    publish_suite(store, LAYOUT, suite)

    def change(head: Head | None) -> Head:
        assert head is not None
        return with_snapshot(
            head,
            manifest.id,
            marks=LAYOUT.marks(tag),
            suite=suite.id,
            tokenizer=LAYOUT.tokenizer("t1"),
            by="me",
        )

    commit_change(store, LAYOUT, change)
    return manifest.id


def write_update(store: LocalObjects, update: str, version: str) -> None:
    for step in (3, 9):
        store.put(f"{LAYOUT.checkpoints(update)}/step-{step}/manifest.json", b"checkpoint")
        store.put(f"{LAYOUT.checkpoints(update)}/step-{step}/rank-0.safetensors", b"weights")
    for name in ("plan.json", "verdict.json", "report.html", "metrics/0.jsonl"):
        store.put(f"{LAYOUT.update(update)}/{name}", b"x")
    store.put(LAYOUT.ledger(update), b"ledger")
    weights = digest_bytes(f"weights of {version}".encode(), "model.safetensors")
    store.put(f"{LAYOUT.model(version)}/model.safetensors", f"weights of {version}".encode())
    manifest = ModelManifest(
        lineage="demo", version=version, origin="", code_version="", content="", files=(weights,)
    )
    publish_model(store, LAYOUT.model(version), manifest)
    store.put(f"{LAYOUT.model_scores(weights_hash(manifest))}/000000-0.json", b"scores")


def judge(store: LocalObjects, number: int, verdict: str, snapshot: str) -> None:
    def change(head: Head | None) -> Head:
        assert head is not None
        record = version_record(number, verdict, snapshots=[snapshot], parent=head.champion)
        write_update(store, record.update, record.version)
        if verdict == "PASS":
            store.put(LAYOUT.replay_manifest(f"replay-{number}"), b"replay")
        return with_verdict(head, record, replay=f"replay-{number}", by="me")

    commit_change(store, LAYOUT, change)


def build(store: LocalObjects) -> None:
    """A lineage with one of everything: published, rolled back and refused versions."""
    store.put(f"{LAYOUT.tokenizer('t1')}/tokenizer.json", b"tokenizer")
    store.put(LAYOUT.projection, b"shown")
    commit_change(store, LAYOUT, lambda _: first_head())
    judge(store, 1, "PASS", refresh(store, "a"))
    judge(store, 2, "PASS", refresh(store, "b"))

    def back(head: Head | None) -> Head:
        assert head is not None
        return rollback(head, lambda n: read_head_number(store, LAYOUT, n), by="me", reason="r")

    commit_change(store, LAYOUT, back)
    judge(store, 3, "FAIL", refresh(store, "c"))


def garbage(store: LocalObjects, *, grace_seconds: float = 3600) -> list[str]:
    found = find_garbage(store, LAYOUT, grace_seconds=grace_seconds, now=LATER)
    return [info.key for info in found]


def test_of_what_heads_reach_only_spare_checkpoints_are_garbage(store: LocalObjects) -> None:
    build(store)
    spare = sorted(
        f"{LAYOUT.checkpoints(f'{n:08d}cafe')}/step-3/{name}"
        for n in (1, 2, 3)
        for name in ("manifest.json", "rank-0.safetensors")
    )
    assert garbage(store) == spare


def test_permanent_checkpoints_of_judged_updates_are_no_garbage(store: LocalObjects) -> None:
    build(store)
    kept = f"{LAYOUT.checkpoints('00000002cafe')}/step-3/"
    before = garbage(store)
    store.put(f"{kept}keep.json", b"{}")
    store.put(f"{LAYOUT.checkpoints('lost')}/step-1/keep.json", b"{}")
    left = [key for key in before if not key.startswith(kept)]
    assert len(left) == len(before) - 2
    # An update that no head reaches goes with all that it kept.
    assert garbage(store) == [*left, f"{LAYOUT.checkpoints('lost')}/step-1/keep.json"]


UNREACHED = [
    LAYOUT.marks("lost"),
    f"{LAYOUT.tokenizer('t2')}/tokenizer.json",
    f"{LAYOUT.snapshot('0' * 12)}/web/train/shard",
    LAYOUT.snapshot_manifest("1" * 12),
    LAYOUT.replay_manifest("lost"),
    LAYOUT.suite_manifest("lost"),
    f"{LAYOUT.suite_items}/lost.json",
    f"{LAYOUT.update('lost')}/plan.json",
    f"{LAYOUT.checkpoints('lost')}/step-1/x",
    LAYOUT.ledger("lost"),
    f"{LAYOUT.model('9-lost')}/model.safetensors",
    f"{LAYOUT.model_scores('0' * 64)}/000000-0.json",
    f"{LAYOUT.root}/unknown",
    # Names that only begin like something live.
    f"{LAYOUT.tokenizer('t10')}/tokenizer.json",
    f"{LAYOUT.model('1-000000010')}/model.safetensors",
]


def test_what_no_head_reaches_is_garbage_after_the_grace_time(store: LocalObjects) -> None:
    build(store)
    before = set(garbage(store))
    for key in UNREACHED:
        store.put(key, b"x")
    assert set(garbage(store)) - before == set(UNREACHED)
    assert garbage(store, grace_seconds=2 * LATER) == []
    assert find_garbage(store, LAYOUT, grace_seconds=3600) == []


def test_what_the_lease_names_is_kept_whole_also_after_a_crash(store: LocalObjects) -> None:
    build(store)
    before = garbage(store)
    with Lease.acquire(store, LAYOUT, "me", note="feedbeef1234"):
        write_update(store, "feedbeef1234", "4-feedbeef")
        assert garbage(store) == before
    # A judged update that runs again, say to be checked anew, keeps its checkpoints as well.
    with Lease.acquire(store, LAYOUT, "me", note="00000001cafe"):
        assert not any("00000001cafe" in key for key in garbage(store))
    assert len(garbage(store)) > len(before)


def test_removing_garbage_leaves_the_lineage_readable_and_nothing_to_remove(
    store: LocalObjects,
) -> None:
    build(store)
    for key in UNREACHED:
        store.put(key, b"x")
    found = find_garbage(store, LAYOUT, grace_seconds=0, now=LATER)
    assert delete_garbage(store, found) == sum(info.size for info in found)
    assert garbage(store) == []
    assert read_head(store, LAYOUT) is not None


def test_manifests_are_removed_first(store: LocalObjects, monkeypatch: pytest.MonkeyPatch) -> None:
    build(store)
    order: list[str] = []
    monkeypatch.setattr(store, "delete", order.append)
    delete_garbage(store, find_garbage(store, LAYOUT, grace_seconds=0, now=LATER))
    manifests = [key.endswith("/manifest.json") for key in order]
    assert manifests == sorted(manifests, reverse=True)


def test_nothing_is_garbage_while_the_state_cannot_be_read(store: LocalObjects) -> None:
    build(store)
    store.put(LAYOUT.head(2), b"{}")
    with pytest.raises(CorruptError, match=r"heads/2\.json was altered"):
        find_garbage(store, LAYOUT, grace_seconds=0, now=LATER)


def test_what_an_unfinished_update_goes_on_from_is_kept_until_another_is_begun(
    store: LocalObjects,
) -> None:
    build(store)
    before = garbage(store)
    for update in ("feedbeef1234", "deadbeef1234"):
        write_update(store, update, f"4-{update[:8]}")
    publish(store, LAYOUT.taken_over("deadbeef1234"), TakenOverMark(update="feedbeef1234"))
    with Lease.acquire(store, LAYOUT, "me") as lease:
        lease.set_note("deadbeef1234")
    assert garbage(store) == before
    with Lease.acquire(store, LAYOUT, "me") as lease:
        lease.set_note("another")
    assert any("feedbeef1234" in key for key in garbage(store))


def test_a_trunk_of_an_update_that_was_not_judged_is_kept_with_its_plan(
    store: LocalObjects,
) -> None:
    build(store)
    write_update(store, "feedbeef1234", "4-feedbeef")
    trunk = f"{LAYOUT.checkpoints('feedbeef1234')}/step-9"

    def branch(head: Head | None) -> Head:
        assert head is not None
        record = version_record(5, "PASS", snapshots=[], parent=head.champion)
        return with_verdict(head, replace(record, trunk=trunk), replay="replay-1", by="me")

    commit_change(store, LAYOUT, branch)
    left = [key for key in garbage(store) if "feedbeef1234" in key]
    assert not any(key.startswith(trunk) or key.endswith("plan.json") for key in left)
    assert f"{LAYOUT.checkpoints('feedbeef1234')}/step-3/manifest.json" in left
