"""What people decide, by command: promote, reject, roll back, unhold."""

import re
from pathlib import Path

import pytest

from storage.head import Head, history, read_head
from storage.layout import Layout
from storage.local_objects import LocalObjects
from tests.support.commands import Commands
from tests.support.mlflow_tables import alias_of
from tests.support.tiny_lineage import TinyLineage

LAYOUT = Layout("tiny")
NOTHING = "nothing to do"
LENIENT = {"max_loss_nats": 50, "max_cumulative_loss_nats": 50}


def newest(commands: Commands) -> Head:
    head = read_head(LocalObjects(commands.home / "store"), LAYOUT)
    assert head is not None
    return head


def why(commands: Commands) -> list[tuple[str, str]]:
    """What was done and why, newest first."""
    heads = history(LocalObjects(commands.home / "store"), LAYOUT)
    return [(head.action, head.reason) for head in reversed(heads)]


@pytest.fixture
def ambiguous(lineage: TinyLineage, perennial: Commands) -> str:
    """Name of a version that waits for a person: so little is held out that nothing is shown."""
    lineage.write(check={**LENIENT, "min_gain_nats": 0.02})
    lineage.add("ledger", documents=8)
    ended = perennial.run("update", lineage.file, "--json")
    assert ended.code == 4, ended.out
    assert ended.json["kind"] == "AMBIGUOUS"
    assert "perennial promote" in ended.json["message"]
    return ended.json["version"]


def test_what_waits_for_a_person_is_promoted_by_its_number(
    ambiguous: str, lineage: TinyLineage, perennial: Commands
) -> None:
    status = perennial.run("status", lineage.file, "--json").json
    assert status["waiting_for_a_person"] == [ambiguous]
    assert perennial.run("promote", "2", "--reason", "read the report", lineage.file).code == 0
    head = newest(perennial)
    assert head.champion == ambiguous
    assert {record.state for record in head.snapshots} == {"learned"}
    assert why(perennial)[0] == ("promote", "read the report")
    assert alias_of(perennial.home, "tiny") == "2"


def test_what_waits_for_a_person_is_rejected_by_its_name_and_its_data_stay_pending(
    ambiguous: str, lineage: TinyLineage, perennial: Commands
) -> None:
    champion = newest(perennial).champion
    ended = perennial.run("reject", ambiguous, "--reason", "too little to see", lineage.file)
    assert ended.code == 0
    head = newest(perennial)
    assert head.champion == champion
    assert head.snapshots[-1].state == "pending"
    assert why(perennial)[0] == ("reject", "too little to see")
    assert perennial.run("update", lineage.file, "--json").json["kind"] == NOTHING


def test_a_rollback_holds_what_was_learned_until_unhold_or_another_recipe(
    lineage: TinyLineage, perennial: Commands
) -> None:
    lineage.write(check=LENIENT)
    lineage.add("ledger")
    assert perennial.run("update", lineage.file).code == 0
    first, second = (record.version for record in newest(perennial).versions)
    assert newest(perennial).champion == second

    assert perennial.run("rollback", "--reason", "it answers rudely", lineage.file).code == 0
    held = newest(perennial).snapshots[-1]
    assert newest(perennial).champion == first
    assert held.state == "held"
    assert alias_of(perennial.home, "tiny") == "1"
    assert perennial.run("update", lineage.file, "--json").json["kind"] == NOTHING

    assert perennial.run("unhold", held.id, "--reason", "looked at it", lineage.file).code == 0
    assert newest(perennial).snapshots[-1].state == "pending"
    assert [action for action, _ in why(perennial)[:2]] == ["unhold", "rollback"]
    # Under the recipe that it was judged by it is not run twice.
    assert perennial.run("update", lineage.file, "--json").json["kind"] == NOTHING


def test_another_recipe_releases_what_a_rollback_held(
    lineage: TinyLineage, perennial: Commands
) -> None:
    lineage.write(check=LENIENT)
    lineage.add("ledger")
    assert perennial.run("update", lineage.file).code == 0
    assert perennial.run("rollback", "--reason", "it answers rudely", lineage.file).code == 0
    lineage.write(check=LENIENT, replay={"share": 0.5})
    ended = perennial.run("update", lineage.file, "--json")
    assert ended.json["kind"] == "PASS", ended.out
    assert ("unhold", "the recipe changed since the rollback") in why(perennial)
    assert newest(perennial).champion == ended.json["version"]


def test_a_refused_version_is_promoted_against_its_verdict(
    lineage: TinyLineage, perennial: Commands
) -> None:
    lineage.add("ledger")
    assert perennial.run("update", lineage.file).code == 3
    again = perennial.run("check", "2", lineage.file, "--json")
    assert (again.code, again.json["kind"]) == (3, "FAIL")
    assert perennial.run("promote", "2", "--reason", "prose is retired", lineage.file).code == 0
    assert newest(perennial).champion == newest(perennial).versions[-1].version


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("promote", "9", "--reason", "x"), r"lineage tiny has no version '9'; it has 1-"),
        (("promote", "1", "--reason", " "), "a decision needs a non-empty reason"),
        (("reject", "1", "--reason", "x"), "cannot reject 1-.*: it is published"),
        (("rollback", "--reason", "x"), "cannot roll back .* no such version was champion before"),
        (("rollback", "--reason", "x", "--to", "9"), "has no version '9'"),
        (("unhold", "../../x", "--reason", "x"), r"tiny has no snapshot '\.\./\.\./x'; it has "),
        (("check", "x"), "lineage tiny has no version 'x'"),
    ],
)
def test_a_decision_that_cannot_be_is_refused_in_one_sentence(
    arguments: tuple[str, ...], message: str, lineage: TinyLineage, perennial: Commands
) -> None:
    before = newest(perennial)
    ended = perennial.run(*arguments, lineage.file)
    assert ended.code == 1
    assert re.search(message, ended.error)
    assert "Traceback" not in ended.err
    assert newest(perennial) == before


def test_decisions_on_a_lineage_without_state_say_what_to_run_first(
    empty_home: Commands, tmp_path: Path
) -> None:
    lineage = TinyLineage(tmp_path / "lineage")
    lineage.write()
    for arguments in (("promote", "1", "--reason", "x"), ("check", "1")):
        ended = empty_home.run(*arguments, lineage.file)
        assert ended.code == 1
        assert "has no state in" in ended.error
        assert "run 'perennial update' first" in ended.error
