"""What people decide, by command: promote, reject, roll back, unhold."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from storage.head import Head, history, read_head
from storage.layout import Layout
from storage.local_objects import LocalObjects
from tests.support.commands import Commands, pause_at, wait_for
from tests.support.mlflow_tables import alias_of
from tests.support.tiny_lineage import TinyLineage, source

LAYOUT = Layout("tiny")
NOTHING = "nothing to do"
LENIENT = {
    "max_loss_nats": 50,
    "max_cumulative_loss_nats": 50,
    "max_perplexity_ratio": 1e30,
}
"""Nothing old is guarded, however much of it is forgotten."""


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


def ask_always(lineage: TinyLineage, **changes: Any) -> None:
    """Write the YAML of ``asked_twice``, with some of its keys changed."""
    prose = {**source("prose"), "uri": f"{lineage.prose}/*.jsonl"}
    verse = {**source("prose"), "name": "verse", "domain": "verse"}
    values = {"check": LENIENT, "review": {"always": True}, **changes}
    lineage.write(sources=[prose, verse, source("ledger")], **values)


@pytest.fixture(scope="module")
def asked_twice(
    first_version: tuple[TinyLineage, Commands], tmp_path_factory: pytest.TempPathFactory
) -> tuple[TinyLineage, Commands]:
    """Two versions that passed and wait all the same, the second with all the data of the first.

    The first forgets prose; the second learns verse, which reads like prose, with the ledger.
    """
    folder = tmp_path_factory.mktemp("asked-twice")
    lineage = TinyLineage(folder / "lineage", prose=first_version[0].folder / "prose")
    ask_always(lineage)
    shutil.copytree(first_version[1].home, folder / "home")
    commands = Commands(folder / "home")
    for domain in ("ledger", "prose"):
        lineage.add(domain, 2)
        ended = commands.run("update", lineage.file, "--json", timeout_seconds=240)
        assert (ended.code, ended.json["kind"]) == (4, "awaiting"), ended.err
        assert "a person decides: perennial promote" in ended.json["message"]
    return lineage, commands


@pytest.fixture
def asked(asked_twice: tuple[TinyLineage, Commands], tmp_path: Path) -> Commands:
    """Commands on a copy of what ``asked_twice`` made."""
    shutil.copytree(asked_twice[1].home, tmp_path / "home")
    return Commands(tmp_path / "home")


def test_a_pass_that_a_person_decides_over_waits_and_is_then_promoted(
    asked_twice: tuple[TinyLineage, Commands], asked: Commands
) -> None:
    lineage, _ = asked_twice
    ask_always(lineage)
    before = newest(asked)
    _, second, third = before.versions
    assert {(record.verdict, record.decision) for record in (second, third)} == {
        ("PASS", "awaiting")
    }
    status = asked.run("status", lineage.file, "--json").json
    assert status["waiting_for_a_person"] == [second.version, third.version]
    # Nobody serves the lineage, so nobody was asked in Prefect.
    assert status["questions"] == {}
    again = asked.run("update", lineage.file, "--json")
    assert (again.code, again.json["kind"]) == (0, NOTHING)
    assert newest(asked) == before
    assert asked.run("promote", "3", "--reason", "read it", lineage.file).code == 0
    assert newest(asked).champion == third.version
    # Nothing is left to decide over the one whose data the other has learned as well.
    assert [record.decision for record in newest(asked).versions] == [
        "published",
        "superseded",
        "published",
    ]


def test_what_was_compared_with_a_former_champion_is_judged_again_before_it_is_promoted(
    asked_twice: tuple[TinyLineage, Commands], asked: Commands
) -> None:
    lineage, _ = asked_twice
    ask_always(lineage, check={**LENIENT, "min_gain_nats": 50})
    assert asked.run("promote", "2", "--reason", "first things first", lineage.file).code == 0
    second, third = newest(asked).versions[1:]
    assert (third.decision, third.parent) == ("awaiting", newest(asked).versions[0].version)

    refused = asked.run("promote", "3", "--reason", "and this", lineage.file, "--json")
    assert (refused.code, refused.json["kind"]) == (3, "FAIL"), refused.err
    assert f"was judged again, against {second.version}, and is FAIL now" in refused.json["message"]
    head = newest(asked)
    judged = head.versions[2]
    assert head.champion == second.version
    assert (judged.verdict, judged.decision, judged.parent) == ("FAIL", "refused", second.version)
    # Only what nobody has learned meanwhile is new; the new evidence lies beside the old.
    assert judged.snapshots == third.snapshots[1:]
    evidence = asked.home / "store" / LAYOUT.update(judged.update)
    for name in ("verdict.json", f"verdict-{judged.judged_on}.json"):
        assert (evidence / name).exists()
    assert "FAIL" in (evidence / f"report-{judged.judged_on}.html").read_text()
    assert head.action == "rejudge"

    insisted = asked.run("promote", "3", "--reason", "I insist", lineage.file)
    assert insisted.code == 0, insisted.err
    assert newest(asked).champion == third.version
    assert why(asked)[0] == ("promote", "I insist")


def test_the_next_update_judges_again_what_was_compared_with_a_former_champion(
    asked_twice: tuple[TinyLineage, Commands], asked: Commands
) -> None:
    lineage, _ = asked_twice
    ask_always(lineage)
    assert asked.run("promote", "2", "--reason", "first things first", lineage.file).code == 0
    second, third = newest(asked).versions[1:]
    assert asked.run("plan", lineage.file).code == 0
    assert newest(asked).versions[2] == third

    # A person decides over it still: it waits with another verdict. What it learned is pending, and
    # is trained on again, from where the lineage is now.
    ended = asked.run("update", lineage.file, "--json")
    assert (ended.code, ended.json["kind"]) == (4, "awaiting"), ended.err
    told = f"{third.version} was judged again, against {second.version}: PASS (awaiting)"
    assert told in ended.err
    judged, fourth = newest(asked).versions[2:]
    assert (judged.decision, judged.parent) == ("awaiting", second.version)
    assert fourth.snapshots == judged.snapshots
    assert newest(asked).champion == second.version


def test_what_passes_when_it_is_judged_again_by_itself_is_published(
    asked_twice: tuple[TinyLineage, Commands], asked: Commands
) -> None:
    lineage, _ = asked_twice
    ask_always(lineage, review={"always": False})
    assert asked.run("promote", "2", "--reason", "first things first", lineage.file).code == 0
    second, third = newest(asked).versions[1:]
    ended = asked.run("update", lineage.file, "--json")
    told = f"{third.version} was judged again, against {second.version}: PASS (published)"
    assert told in ended.json["message"], ended.err
    head = newest(asked)
    assert (head.champion, head.action) == (third.version, "rejudge")
    assert {record.state for record in head.snapshots} == {"learned"}
    assert alias_of(asked.home, "tiny") == "3"


def test_an_update_whose_champion_moved_while_it_was_trained_is_judged_against_the_new_one(
    asked_twice: tuple[TinyLineage, Commands], asked: Commands, tmp_path: Path
) -> None:
    lineage, _ = asked_twice
    # FAIL against either champion, so that it does not matter by how much it is better.
    ask_always(lineage, check={**LENIENT, "min_gain_nats": 50})
    added = lineage.add("ledger", 3)
    reached, release = tmp_path / "reached", tmp_path / "release"
    started = asked.start(
        "update",
        lineage.file,
        "--json",
        prepare=pause_at("flows.update_judging.commit_verdict", reached, release),
    )
    wait_for(reached, timeout_seconds=120)
    assert asked.run("promote", "3", "--reason", "it was good", lineage.file).code == 0
    release.touch()
    ended = started.wait(120)
    added.unlink()
    assert (ended.code, ended.json["kind"]) == (3, "FAIL"), ended.err
    third, fourth = newest(asked).versions[2:]
    assert (fourth.decision, fourth.parent) == ("refused", third.version)
    assert fourth.snapshots == (newest(asked).snapshots[-1].id,)


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
