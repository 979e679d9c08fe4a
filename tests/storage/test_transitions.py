from collections.abc import Callable
from dataclasses import replace

import pytest

from storage.errors import HeadMovedError
from storage.head import Head, VersionRecord
from storage.judging_again import compared_today, to_judge_again
from storage.taking_back import rollback, unhold
from storage.transitions import promote, refuse, reject, with_imported, with_snapshot, with_verdict
from tests.storage.building import first_head, version_record


class Chain:
    """A lineage in memory: every event appends a head."""

    def __init__(self) -> None:
        self.heads = [first_head()]

    @property
    def head(self) -> Head:
        return self.heads[-1]

    def add(self, head: Head) -> Head:
        assert head.number == self.head.number + 1
        self.heads.append(head)
        return head

    def read(self, number: int) -> Head:
        return self.heads[number - 1]

    def refresh(self, snapshot: str) -> Head:
        return self.add(
            with_snapshot(
                self.head,
                snapshot,
                marks=f"marks-{snapshot}",
                suite=f"suite-{snapshot}",
                tokenizer=self.head.tokenizer,
                by="me",
            )
        )

    def judge(self, number: int, verdict: str, *snapshots: str) -> VersionRecord:
        record = version_record(number, verdict, snapshots=snapshots, parent=self.head.champion)
        self.add(with_verdict(self.head, record, replay=f"replay-{number}", by="me"))
        return self.head.versions[-1]

    def states(self) -> dict[str, str]:
        return {snapshot.id: snapshot.state for snapshot in self.head.snapshots}

    def decisions(self) -> dict[str, str]:
        return {version.version: version.decision for version in self.head.versions}


@pytest.fixture
def chain() -> Chain:
    chain = Chain()
    chain.refresh("s1")
    chain.judge(1, "PASS", "s1")
    chain.refresh("s2")
    return chain


def data_state(head: Head) -> tuple[object, ...]:
    return (head.marks, head.suite, head.tokenizer)


def model_state(head: Head) -> tuple[object, ...]:
    return (head.champion, head.trunk, head.replay)


def test_a_refresh_mints_a_pending_snapshot(chain: Chain) -> None:
    before = chain.read(chain.head.number - 1)
    assert chain.states() == {"s1": "learned", "s2": "pending"}
    assert chain.head.marks == "marks-s2"
    assert chain.head.suite == "suite-s2"
    assert model_state(chain.head) == model_state(before)
    again = with_snapshot(chain.head, "s2", marks="m", suite="s", tokenizer=None, by="me")
    assert again is chain.head


def test_a_reference_is_learned_from_the_start() -> None:
    head = with_snapshot(
        first_head(), "ref", marks="m", suite="s", tokenizer="t", by="me", role="reference"
    )
    assert [(s.state, s.role) for s in head.snapshots] == [("learned", "reference")]


def test_a_fail_leaves_the_snapshot_pending_and_moves_nothing(chain: Chain) -> None:
    before = chain.head
    record = chain.judge(2, "FAIL", "s2")
    assert record.decision == "refused"
    assert record.published_on_head is None
    assert chain.states()["s2"] == "pending"
    assert data_state(chain.head) == data_state(before)
    assert model_state(chain.head) == model_state(before)


def test_an_ambiguous_verdict_awaits_a_person_and_moves_nothing(chain: Chain) -> None:
    before = chain.head
    record = chain.judge(2, "AMBIGUOUS", "s2")
    assert (record.decision, record.on_head) == ("awaiting", chain.head.number)
    assert chain.states()["s2"] == "pending"
    assert data_state(chain.head) == data_state(before)
    assert model_state(chain.head) == model_state(before)


def test_a_pass_learns_the_snapshot_and_moves_champion_trunk_and_replay(chain: Chain) -> None:
    before = chain.head
    record = chain.judge(2, "PASS", "s2")
    assert (record.decision, record.published_on_head) == ("published", chain.head.number)
    assert chain.states()["s2"] == "learned"
    assert data_state(chain.head) == data_state(before)
    assert model_state(chain.head) == (record.version, record.trunk, "replay-2")


def test_a_rejected_version_leaves_the_snapshot_pending(chain: Chain) -> None:
    version = chain.judge(2, "AMBIGUOUS", "s2").version
    before = chain.head
    chain.add(reject(chain.head, version, by="me", reason="looks odd"))
    assert chain.decisions()[version] == "rejected"
    assert chain.head.versions[-1].reason == "looks odd"
    assert chain.states()["s2"] == "pending"
    assert model_state(chain.head) == model_state(before)
    assert reject(chain.head, version, by="me", reason="again") is chain.head


@pytest.mark.parametrize("verdict", ["AMBIGUOUS", "FAIL"])
def test_a_person_promotes_what_no_verdict_published(chain: Chain, verdict: str) -> None:
    record = chain.judge(2, verdict, "s2")
    chain.add(promote(chain.head, record.version, replay="replay-p", by="me", reason="needed"))
    assert model_state(chain.head) == (record.version, record.trunk, "replay-p")
    assert chain.states()["s2"] == "learned"
    promoted = chain.head.versions[-1]
    assert (promoted.verdict, promoted.decision, promoted.reason) == (
        verdict,
        "published",
        "needed",
    )
    assert (promoted.on_head, promoted.published_on_head) == (record.on_head, chain.head.number)
    again = promote(chain.head, record.version, replay="r", by="me", reason="again")
    assert again is chain.head


def test_a_rollback_takes_model_and_replay_back_and_holds_what_was_learned(chain: Chain) -> None:
    before = chain.head
    second = chain.judge(2, "PASS", "s2")
    chain.refresh("s3")
    data = data_state(chain.head)
    chain.add(rollback(chain.head, chain.read, by="me", reason="bad", lease_token=4))
    assert model_state(chain.head) == model_state(before)
    assert data_state(chain.head) == data
    assert chain.states() == {"s1": "learned", "s2": "held", "s3": "pending"}
    assert chain.head.snapshots[1].reason == f"learned by {second.version}, rolled back: bad"
    assert chain.decisions()[second.version] == "rolled_back"
    assert chain.head.lease_token == 4


def test_a_rollback_goes_over_several_versions_to_the_one_named(chain: Chain) -> None:
    first = chain.head
    chain.judge(2, "PASS", "s2")
    chain.refresh("s3")
    chain.judge(3, "PASS", "s3")
    champion = first.champion
    chain.add(rollback(chain.head, chain.read, to=champion, by="me", reason="bad"))
    assert model_state(chain.head) == model_state(first)
    assert chain.states() == {"s1": "learned", "s2": "held", "s3": "held"}
    assert list(chain.decisions().values()) == ["published", "rolled_back", "rolled_back"]
    assert rollback(chain.head, chain.read, to=champion, by="me", reason="bad") is chain.head


def test_after_a_rollback_the_next_rollback_goes_further_back(chain: Chain) -> None:
    chain.judge(2, "PASS", "s2")
    chain.refresh("s3")
    third = chain.judge(3, "PASS", "s3")
    chain.add(rollback(chain.head, chain.read, by="me", reason="bad"))
    chain.refresh("s4")
    chain.judge(4, "PASS", "s4")
    chain.add(rollback(chain.head, chain.read, by="me", reason="bad"))
    assert chain.head.champion == "2-00000002"
    chain.add(rollback(chain.head, chain.read, by="me", reason="bad"))
    assert chain.head.champion == "1-00000001"
    assert chain.decisions()[third.version] == "rolled_back"


@pytest.mark.parametrize("to", [None, "9-nowhere"])
def test_there_is_no_rollback_before_the_first_version(chain: Chain, to: str | None) -> None:
    with pytest.raises(ValueError, match="no such version was champion before 1-00000001"):
        rollback(chain.head, chain.read, to=to, by="me", reason="bad")
    with pytest.raises(ValueError, match="has no champion; what is possible: update"):
        rollback(first_head(), chain.read, by="me", reason="bad")


def test_a_rollback_to_an_unknown_version_says_what_is_possible(chain: Chain) -> None:
    chain.judge(2, "PASS", "s2")
    with pytest.raises(ValueError, match="what is possible: rollback to 1-00000001"):
        rollback(chain.head, chain.read, to="9-nowhere", by="me", reason="bad")


def test_unhold_frees_a_held_snapshot_and_nothing_else(chain: Chain) -> None:
    chain.judge(2, "PASS", "s2")
    with pytest.raises(ValueError, match="it is learned; what is possible: nothing"):
        unhold(chain.head, "s2", by="me", reason="fixed")
    chain.add(rollback(chain.head, chain.read, by="me", reason="bad"))
    with pytest.raises(ValueError, match="it is learned; what is possible: unhold s2"):
        unhold(chain.head, "s1", by="me", reason="fixed")
    chain.add(unhold(chain.head, "s2", by="me", reason="fixed"))
    assert chain.states() == {"s1": "learned", "s2": "pending"}
    assert chain.head.snapshots[1].reason == ""
    assert unhold(chain.head, "s2", by="me", reason="again") is chain.head


def test_a_held_snapshot_is_not_learned_by_a_verdict(chain: Chain) -> None:
    chain.judge(2, "PASS", "s2")
    chain.add(rollback(chain.head, chain.read, by="me", reason="bad"))
    with pytest.raises(HeadMovedError, match="snapshot s2, which is held in head"):
        chain.judge(3, "PASS", "s2")


def test_a_rollback_can_be_taken_back_by_a_promotion(chain: Chain) -> None:
    second = chain.judge(2, "PASS", "s2")
    chain.add(rollback(chain.head, chain.read, by="me", reason="bad"))
    chain.add(promote(chain.head, second.version, replay="replay-2", by="me", reason="was fine"))
    assert chain.head.champion == second.version
    assert chain.states()["s2"] == "learned"
    chain.add(rollback(chain.head, chain.read, by="me", reason="bad after all"))
    assert chain.head.champion == "1-00000001"


def test_a_data_gate_refuses_and_a_retry_mints_again(chain: Chain) -> None:
    before = chain.head
    chain.add(refuse(chain.head, "s2", suite="suite-s1", by="gate", reason="contaminated"))
    assert chain.states()["s2"] == "refused"
    assert chain.head.snapshots[1].reason == "contaminated"
    assert chain.head.suite == "suite-s1"
    assert chain.head.marks == before.marks
    assert model_state(chain.head) == model_state(before)
    assert refuse(chain.head, "s2", suite="x", by="gate", reason="again") is chain.head
    with pytest.raises(HeadMovedError, match="snapshot s2, which is refused"):
        chain.judge(2, "PASS", "s2")
    chain.refresh("s2")
    assert chain.states() == {"s1": "learned", "s2": "pending"}
    with pytest.raises(ValueError, match="it is learned; what is possible: rollback"):
        refuse(chain.head, "s1", suite="x", by="gate", reason="late")


def test_an_import_is_the_first_champion() -> None:
    head = with_snapshot(
        first_head(), "ref", marks="m", suite="s", tokenizer="t", by="me", role="reference"
    )
    record = version_record(1, "IMPORTED", snapshots=["ref"], parent=None)
    imported = with_imported(head, record, replay="replay-1", tokenizer="models/base", by="me")
    assert model_state(imported) == (record.version, record.trunk, "replay-1")
    assert imported.tokenizer == "models/base"
    assert imported.versions[0].published_on_head == imported.number
    again = with_imported(imported, record, replay="r", tokenizer="t", by="me")
    assert again is imported
    other = version_record(2, "IMPORTED", snapshots=[], parent=None)
    with pytest.raises(ValueError, match="already has champion 1-00000001"):
        with_imported(imported, other, replay=None, tokenizer="t", by="me")


def test_a_verdict_is_committed_once(chain: Chain) -> None:
    record = chain.judge(2, "PASS", "s2")
    assert with_verdict(chain.head, record, replay="r", by="me") is chain.head
    with pytest.raises(ValueError, match="judge update 00000002cafe again: it is published"):
        with_verdict(chain.head, replace(record, verdict="FAIL"), replay="r", by="me")


def test_an_awaiting_version_is_judged_again_when_the_champion_moved(chain: Chain) -> None:
    chain.refresh("s3")
    waiting = chain.judge(2, "AMBIGUOUS", "s2")
    assert with_verdict(chain.head, waiting, replay=None, by="me") is chain.head
    chain.judge(3, "PASS", "s3")
    with pytest.raises(HeadMovedError, match="compared with champion 1-00000001, but head"):
        promote(chain.head, waiting.version, replay="r", by="me", reason="x")
    with pytest.raises(HeadMovedError, match="check it again or start an update"):
        with_verdict(chain.head, replace(waiting, verdict="PASS"), replay="r", by="me")
    again = replace(waiting, parent=chain.head.champion)
    chain.add(with_verdict(chain.head, again, replay=None, by="me"))
    assert [version.version for version in chain.head.versions] == [
        "1-00000001",
        "2-00000002",
        "3-00000003",
    ]
    assert chain.head.versions[1].on_head == chain.head.number
    assert chain.head.action == "rejudge"


def test_what_a_person_decides_over_anyway_waits_though_it_passed(chain: Chain) -> None:
    before = chain.head
    record = version_record(2, "PASS", snapshots=["s2"], parent=before.champion)
    chain.add(with_verdict(chain.head, record, replay=None, by="me", always_ask=True))
    waiting = chain.head.versions[-1]
    assert (waiting.verdict, waiting.decision) == ("PASS", "awaiting")
    assert waiting.published_on_head is None
    assert chain.states()["s2"] == "pending"
    assert model_state(chain.head) == model_state(before)
    # Not published by a retry either.
    again = with_verdict(chain.head, record, replay="r", by="me", always_ask=True)
    assert again is chain.head
    chain.add(promote(chain.head, record.version, replay="replay-2", by="ann", reason="read it"))
    assert model_state(chain.head) == (record.version, record.trunk, "replay-2")
    assert chain.states()["s2"] == "learned"


@pytest.mark.parametrize("verdict", ["FAIL", "AMBIGUOUS"])
def test_always_asking_changes_no_other_verdict(chain: Chain, verdict: str) -> None:
    record = version_record(2, verdict, snapshots=["s2"], parent=chain.head.champion)
    asked, not_asked = (
        with_verdict(chain.head, record, replay=None, by="me", always_ask=always).versions
        for always in (True, False)
    )
    assert asked == not_asked


def test_a_publication_supersedes_what_waits_with_the_same_data_and_leaves_what_has_more(
    chain: Chain,
) -> None:
    first = chain.judge(2, "AMBIGUOUS", "s2")
    chain.refresh("s3")
    second = chain.judge(3, "AMBIGUOUS", "s2", "s3")
    chain.refresh("s4")
    third = chain.judge(4, "AMBIGUOUS", "s2", "s3", "s4")
    chain.add(promote(chain.head, second.version, replay="replay-3", by="me", reason="good"))
    assert chain.decisions() == {
        "1-00000001": "published",
        first.version: "superseded",
        second.version: "published",
        third.version: "awaiting",
    }
    assert chain.head.versions[1].reason == "3-00000003 has learned its data as well"
    with pytest.raises(ValueError, match="it is superseded; what is possible: reject 4-00000004"):
        reject(chain.head, first.version, by="me", reason="late")


def test_what_waits_is_judged_again_on_what_nobody_learned_meanwhile(chain: Chain) -> None:
    first = chain.judge(2, "AMBIGUOUS", "s2")
    chain.refresh("s3")
    second = chain.judge(3, "AMBIGUOUS", "s2", "s3")
    assert to_judge_again(chain.head, second.version) is None
    chain.add(promote(chain.head, first.version, replay="replay-2", by="me", reason="good"))
    moved = chain.head
    again = to_judge_again(moved, second.version)
    assert again is not None
    assert (again.parent, again.snapshots, again.judged_on) == (
        first.version,
        ("s3",),
        moved.number,
    )
    chain.add(with_verdict(moved, replace(again, verdict="PASS"), replay="replay-3", by="me"))
    assert chain.head.champion == second.version
    assert set(chain.states().values()) == {"learned"}
    chain.add(rollback(chain.head, chain.read, by="me", reason="bad"))
    # What the version before it had learned stays learned.
    assert chain.states() == {"s1": "learned", "s2": "learned", "s3": "held"}


def test_a_new_verdict_of_fail_refuses_and_a_person_may_still_insist(chain: Chain) -> None:
    first = chain.judge(2, "AMBIGUOUS", "s2")
    chain.refresh("s3")
    second = chain.judge(3, "AMBIGUOUS", "s2", "s3")
    chain.add(promote(chain.head, first.version, replay="replay-2", by="me", reason="good"))
    again = to_judge_again(chain.head, second.version)
    assert again is not None
    chain.add(with_verdict(chain.head, replace(again, verdict="FAIL"), replay=None, by="me"))
    assert chain.decisions()[second.version] == "refused"
    assert to_judge_again(chain.head, second.version) is None
    chain.add(promote(chain.head, second.version, replay="replay-3", by="me", reason="insist"))
    assert chain.head.champion == second.version


def test_what_continues_from_a_rolled_back_version_is_not_judged_again(chain: Chain) -> None:
    chain.judge(2, "PASS", "s2")
    chain.refresh("s3")
    waiting = chain.judge(3, "AMBIGUOUS", "s3")
    chain.add(rollback(chain.head, chain.read, by="me", reason="bad"))
    with pytest.raises(HeadMovedError, match="continues from 2-00000002, which was rolled back"):
        to_judge_again(chain.head, waiting.version)


def test_what_learned_held_data_is_not_judged_again(chain: Chain) -> None:
    first = chain.judge(2, "AMBIGUOUS", "s2")
    chain.refresh("s3")
    second = chain.judge(3, "AMBIGUOUS", "s2", "s3")
    chain.add(promote(chain.head, first.version, replay="replay-2", by="me", reason="good"))
    assert to_judge_again(chain.head, second.version) is not None
    chain.add(rollback(chain.head, chain.read, by="me", reason="bad"))
    # Its own champion is back, and what it learned is held.
    assert to_judge_again(chain.head, second.version) is None
    with pytest.raises(HeadMovedError, match="snapshot s2, which is held"):
        promote(chain.head, second.version, replay="r", by="me", reason="x")


@pytest.mark.parametrize(
    ("move", "complaint"),
    [
        (
            lambda h: reject(h, "1-00000001", by="m", reason="r"),
            "it is published; what .* rollback",
        ),
        (lambda h: reject(h, "7-x", by="m", reason="r"), "no version '7-x'; it has 1-00000001"),
        (
            lambda h: promote(h, "7-x", replay="r", by="m", reason="r"),
            "no version '7-x'; it has 1-00000001",
        ),
        (lambda h: unhold(h, "s9", by="m", reason="r"), "no snapshot 's9'; it has s1, s2"),
        (
            lambda h: refuse(h, "s9", suite=None, by="m", reason="r"),
            "no snapshot 's9'; it has s1, s2",
        ),
    ],
)
def test_impossible_moves_say_what_is_possible(
    chain: Chain, move: Callable[[Head], Head], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        move(chain.head)


def test_a_superseded_version_is_reached_by_rollback_not_by_promotion(chain: Chain) -> None:
    chain.judge(2, "PASS", "s2")
    with pytest.raises(ValueError, match="what is possible: rollback to 1-00000001"):
        promote(chain.head, "1-00000001", replay="r", by="me", reason="x")


def test_nothing_is_published_without_a_replay_version(chain: Chain) -> None:
    record = version_record(2, "PASS", snapshots=["s2"], parent=chain.head.champion)
    with pytest.raises(ValueError, match="without a replay version"):
        with_verdict(chain.head, record, replay=None, by="me")


@pytest.mark.parametrize(
    ("verdict", "decision"), [("FAIL", "refused"), ("AMBIGUOUS", "superseded")]
)
def test_a_repair_and_what_it_repairs_are_one_head(verdict: str, decision: str) -> None:
    chain = Chain()
    chain.refresh("s1")
    champion = chain.judge(1, "PASS", "s1")
    chain.refresh("s2")
    failed = version_record(2, verdict, snapshots=("s2",), parent=champion.version)
    merged = replace(
        version_record(3, "PASS", snapshots=("s2",), parent=champion.version),
        trunk=None,
        remedy_of=failed.version,
        merged_from=(champion.version, failed.version),
    )
    before = chain.head
    head = chain.add(with_verdict(before, merged, replay="replay-3", by="me", failed=failed))
    assert chain.decisions() == {
        champion.version: "published",
        failed.version: decision,
        merged.version: "published",
    }
    assert (head.champion, head.trunk, head.replay) == (merged.version, None, "replay-3")
    assert chain.states() == {"s1": "learned", "s2": "learned"}
    # A retry after a crash finds both.
    assert with_verdict(head, merged, replay="replay-3", by="me", failed=failed) == head
    back = rollback(head, chain.read, by="me", reason="worse")
    assert (back.champion, back.trunk) == (champion.version, champion.trunk)
    assert {snapshot.id: snapshot.state for snapshot in back.snapshots}["s2"] == "held"


def test_an_update_whose_data_was_learned_meanwhile_has_nothing_to_be_judged_on(
    chain: Chain,
) -> None:
    trained = version_record(3, "PASS", snapshots=["s2"], parent=chain.head.champion)
    chain.judge(2, "PASS", "s2")
    with pytest.raises(HeadMovedError, match="all that 3-00000003 was trained on was learned by 2"):
        compared_today(chain.head, trained)
