from pathlib import Path

import pytest

from storage.errors import HeadMovedError, NotFoundError
from storage.head import Head, commit_change
from storage.local_objects import LocalObjects
from storage.models import ModelManifest, publish_model
from storage.objects import ObjectStore
from storage.replay import read_replay
from storage.transitions import with_verdict
from tasks.publish import replay_extender
from tasks.review import Reviewed, promote, reject, rollback, unhold
from tests.support.killing_store import KillingObjects, count_operations, kill_points, run_killed
from tests.support.lineages import LAYOUT, SEQ_LEN, add_snapshot, candidate, newest


@pytest.fixture
def store(tmp_path: Path) -> LocalObjects:
    return LocalObjects(tmp_path / "store")


def judge(store: ObjectStore, number: int, verdict: str, *, is_exported: bool = True) -> str:
    """A refresh and an update with this verdict; returns the version."""
    add_snapshot(store, number)
    head = newest(store)
    record = candidate(head, verdict)
    if is_exported:
        manifest = ModelManifest(
            lineage="demo",
            version=record.version,
            origin="o",
            code_version="1",
            content="c",
            files=(),
        )
        publish_model(store, LAYOUT.model(record.version), manifest)
    extend = replay_extender(store, LAYOUT, budget_tokens=1600, seq_len=SEQ_LEN)
    replay = extend(head, record.snapshots) if verdict == "PASS" else None

    def change(head: Head | None) -> Head:
        assert head is not None
        return with_verdict(head, record, replay=replay, by="test")

    commit_change(store, LAYOUT, change)
    return record.version


def states(head: Head) -> list[str]:
    return [snapshot.state for snapshot in head.snapshots]


def do_promote(store: ObjectStore, version: str, reason: str = "I read it") -> Reviewed:
    extend = replay_extender(store, LAYOUT, budget_tokens=1600, seq_len=SEQ_LEN)
    return promote(store, LAYOUT, version, by="ann", reason=reason, extend_replay=extend)


@pytest.mark.parametrize("verdict", ["FAIL", "AMBIGUOUS"])
def test_a_person_may_publish_what_no_verdict_did(store: LocalObjects, verdict: str) -> None:
    first = judge(store, 1, "PASS")
    second = judge(store, 2, verdict)
    done = do_promote(store, second)
    head = newest(store)
    assert done.head == head
    assert head.champion == second
    assert (head.action, head.by, head.reason) == ("promote", "ann", "I read it")
    assert states(head) == ["learned", "learned"]
    assert head.replay is not None
    assert len(read_replay(store, LAYOUT, head.replay).strata) == 2
    record = head.versions[-1]
    assert (record.verdict, record.decision, record.reason) == (verdict, "published", "I read it")
    assert second in done.message
    assert first in done.message
    again = do_promote(store, second)
    assert again.head == head
    assert "nothing changed" in again.message


def test_a_version_that_was_compared_with_another_champion_is_not_promoted(
    store: LocalObjects,
) -> None:
    judge(store, 1, "PASS")
    stale = judge(store, 2, "AMBIGUOUS")
    judge(store, 3, "PASS")
    before = list(store.list(LAYOUT.root))
    with pytest.raises(HeadMovedError, match=r"was compared with champion"):
        do_promote(store, stale)
    assert list(store.list(LAYOUT.root)) == before


def test_a_version_without_a_model_is_not_promoted(store: LocalObjects) -> None:
    version = judge(store, 1, "AMBIGUOUS", is_exported=False)
    with pytest.raises(ValueError, match=r"there is no exported model under .*models/"):
        do_promote(store, version)


def test_a_rejected_version_leaves_its_data_to_the_next_update(store: LocalObjects) -> None:
    version = judge(store, 1, "AMBIGUOUS")
    done = reject(store, LAYOUT, version, by="ann", reason="repeats itself")
    assert done.head.champion is None
    assert done.head.versions[-1].decision == "rejected"
    assert states(done.head) == ["pending"]
    assert "the next update takes" in done.message
    again = reject(store, LAYOUT, version, by="ann", reason="repeats itself")
    assert again.head == done.head


def test_a_rollback_brings_back_champion_trunk_and_replay(store: LocalObjects) -> None:
    first = judge(store, 1, "PASS")
    before = newest(store)
    second = judge(store, 2, "PASS")
    done = rollback(store, LAYOUT, by="ann", reason="worse in use")
    head = done.head
    assert (head.champion, head.trunk, head.replay) == (first, before.trunk, before.replay)
    assert states(head) == ["learned", "held"]
    assert head.versions[-1].decision == "rolled_back"
    assert first in done.message
    assert second in done.message
    assert head.snapshots[-1].id in done.message


def test_the_same_rollback_again_never_goes_back_further(store: LocalObjects) -> None:
    for number in (1, 2, 3):
        judge(store, number, "PASS")
    done = rollback(store, LAYOUT, by="ann", reason="worse in use")
    add_snapshot(store, 9)
    again = rollback(store, LAYOUT, by="ann", reason="worse in use")
    assert again.head.champion == done.head.champion
    assert "nothing changed" in again.message
    further = rollback(store, LAYOUT, by="ann", reason="this one too")
    assert further.head.champion == done.head.versions[0].version


def test_a_rollback_to_a_named_version_skips_those_between(store: LocalObjects) -> None:
    first = judge(store, 1, "PASS")
    judge(store, 2, "PASS")
    judge(store, 3, "PASS")
    done = rollback(store, LAYOUT, by="ann", reason="both are worse", to=first)
    assert done.head.champion == first
    assert states(done.head) == ["learned", "held", "held"]
    assert rollback(store, LAYOUT, by="ann", reason="again", to=first).head == done.head


def test_the_first_version_has_nothing_to_go_back_to(store: LocalObjects) -> None:
    judge(store, 1, "PASS")
    with pytest.raises(ValueError, match=r"no such version was champion before"):
        rollback(store, LAYOUT, by="ann", reason="worse in use")


def test_unhold_lets_the_next_update_train_again(store: LocalObjects) -> None:
    judge(store, 1, "PASS")
    judge(store, 2, "PASS")
    held = rollback(store, LAYOUT, by="ann", reason="worse").head.snapshots[-1].id
    done = unhold(store, LAYOUT, held, by="ann", reason="the recipe was to blame")
    assert states(done.head) == ["learned", "pending"]
    assert held in done.message


@pytest.mark.parametrize(("by", "reason"), [("ann", " "), ("", "worse")])
def test_a_decision_needs_a_reason_and_a_name(store: LocalObjects, by: str, reason: str) -> None:
    judge(store, 1, "PASS")
    version = judge(store, 2, "AMBIGUOUS")
    extend = replay_extender(store, LAYOUT, budget_tokens=1600, seq_len=SEQ_LEN)
    before = newest(store)
    for decide in (
        lambda: promote(store, LAYOUT, version, by=by, reason=reason, extend_replay=extend),
        lambda: reject(store, LAYOUT, version, by=by, reason=reason),
        lambda: rollback(store, LAYOUT, by=by, reason=reason),
        lambda: unhold(store, LAYOUT, "x", by=by, reason=reason),
    ):
        with pytest.raises(ValueError, match=r"a decision needs a non-empty (by|reason)"):
            decide()
    assert newest(store) == before


def test_a_lineage_that_is_not_there_is_named(store: LocalObjects) -> None:
    with pytest.raises(NotFoundError, match=r"demo has no head in file:///"):
        rollback(store, LAYOUT, by="ann", reason="worse")


def test_a_rollback_killed_anywhere_leaves_old_or_new_and_completes(tmp_path: Path) -> None:
    def prepared(name: str) -> LocalObjects:
        store = LocalObjects(tmp_path / name)
        for number in (1, 2, 3):
            judge(store, number, "PASS")
        return store

    def attempt(store: ObjectStore) -> Head:
        return rollback(store, LAYOUT, by="ann", reason="worse in use").head

    operations = count_operations(prepared("scratch"), attempt)
    for index, kill in enumerate(kill_points(operations)):
        store = prepared(str(index))
        old = newest(store)
        exit_info = run_killed(lambda: attempt(KillingObjects(store, **kill)))  # noqa: B023
        assert exit_info.killed, exit_info.error
        found = newest(store)
        assert found == old or found.champion == old.versions[1].version
        assert attempt(store).champion == old.versions[1].version
        assert newest(store).number == old.number + 1
