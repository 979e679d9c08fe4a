"""Whole updates of a small lineage, by command, as an operator runs them."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from storage.head import Head, history, read_head
from storage.layout import Layout
from storage.local_objects import LocalObjects
from tests.support.commands import Commands, kill_at, pause_at, wait_for
from tests.support.lineages import hub_directory
from tests.support.mlflow_tables import alias_of, logged_steps_of, runs_of, versions_of
from tests.support.tiny_lineage import SEQ_LEN, TinyLineage, source

LAYOUT = Layout("tiny")
NOTHING = "nothing to do"


def newest(commands: Commands) -> Head:
    head = read_head(LocalObjects(commands.home / "store"), LAYOUT)
    assert head is not None
    return head


def snapshot_states(commands: Commands) -> list[str]:
    return [record.state for record in newest(commands).snapshots]


def weights_of(commands: Commands, version: str) -> str:
    path = commands.home / "store" / LAYOUT.model(version) / "model.safetensors"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def files_below(folder: Path) -> Iterator[str]:
    return (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_the_first_version_is_champion_and_mlflow_points_at_it(
    first_version: tuple[TinyLineage, Commands],
) -> None:
    _, commands = first_version
    head = newest(commands)
    assert [record.verdict for record in head.versions] == ["PASS"]
    assert head.champion == head.versions[0].version
    assert [record.state for record in head.snapshots] == ["learned"]
    assert versions_of(commands.home, "tiny") == {"1": head.champion}
    assert alias_of(commands.home, "tiny") == "1"


def test_nothing_new_is_nothing_to_do_and_loads_nothing_heavy(
    lineage: TinyLineage, perennial: Commands
) -> None:
    # Shows the copied home's head in its own MLflow, so that there is nothing left to do at all.
    assert perennial.run("update", lineage.file).code == 0
    code = (
        "import sys, flows.cli\n"
        f"sys.argv = ['perennial', 'update', {str(lineage.file)!r}, '--json']\n"
        "try:\n"
        "    flows.cli.main()\n"
        "finally:\n"
        "    heavy = {'torch', 'ray', 'mlflow', 'streaming', 'transformers'} & set(sys.modules)\n"
        "    print(sorted(heavy), file=sys.stderr)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PERENNIAL_HOME": str(perennial.home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["kind"] == NOTHING
    assert ended.stderr.splitlines()[-1] == "[]"


def test_what_forgets_is_refused_stays_pending_and_is_not_run_twice(
    lineage: TinyLineage, perennial: Commands
) -> None:
    champion = newest(perennial).champion
    lineage.add("ledger")
    failed = perennial.run("update", lineage.file, "--json")
    assert failed.code == 3, failed.err
    assert failed.json["kind"] == "FAIL"
    assert "prose: held-out loss is" in failed.json["message"]
    assert newest(perennial).champion == champion
    assert snapshot_states(perennial) == ["learned", "pending"]
    assert alias_of(perennial.home, "tiny") == "1"

    again = perennial.run("update", lineage.file, "--json")
    assert (again.code, again.json["kind"]) == (0, NOTHING)
    assert "already judged under this recipe" in again.json["message"]

    lineage.write(replay={"share": 0.5}, check={"max_loss_nats": 1, "max_cumulative_loss_nats": 1})
    passed = perennial.run("update", lineage.file, "--json")
    assert passed.code == 0, passed.out
    first, second = newest(perennial).versions[1:]
    assert first.snapshots == second.snapshots
    assert first.update != second.update
    assert newest(perennial).champion == second.version
    assert snapshot_states(perennial) == ["learned", "learned"]


def test_new_data_joins_what_a_refused_update_left_pending(
    lineage: TinyLineage, perennial: Commands
) -> None:
    lineage.add("ledger")
    assert perennial.run("update", lineage.file).code == 3
    refused = newest(perennial).versions[-1].snapshots
    lineage.add("ledger", part=2)
    planned = perennial.run("plan", lineage.file, "--json").json["details"]["plan"]
    assert len(planned["snapshots"]) == 2
    assert set(refused) < set(planned["snapshots"])


def test_a_dry_run_changes_nothing_but_the_refresh(
    lineage: TinyLineage, perennial: Commands
) -> None:
    lineage.add("ledger")
    updates = perennial.home / "store" / LAYOUT.root / "updates"
    before = set(files_below(updates))
    planned = perennial.run("update", lineage.file, "--dry-run", "--json")
    assert (planned.code, planned.json["kind"]) == (0, "planned")
    assert set(files_below(updates)) == before
    assert snapshot_states(perennial) == ["learned", "pending"]
    assert len(newest(perennial).versions) == 1

    told = perennial.run("plan", lineage.file, "--json")
    assert told.json["details"] == planned.json["details"]
    assert (
        perennial.run("update", lineage.file, "--json").json["version"] == (planned.json["version"])
    )


def test_of_two_updates_at_once_one_runs_and_the_other_says_so_or_waits(
    lineage: TinyLineage, perennial: Commands, tmp_path: Path
) -> None:
    lineage.add("ledger")
    reached, release = tmp_path / "reached", tmp_path / "release"
    running = perennial.start(
        "update",
        lineage.file,
        "--json",
        prepare=pause_at("flows.update_steps.train_plan", reached, release),
    )
    wait_for(reached)
    second = perennial.run("update", lineage.file)
    assert second.code == 1
    assert "tiny is being updated by" in second.error
    waiting = perennial.start("update", lineage.file, "--wait-seconds", "30", "--json")
    release.touch()
    assert running.wait().json["kind"] == "FAIL"
    assert waiting.wait().json["kind"] == NOTHING
    assert len(newest(perennial).versions) == 2


def test_an_update_killed_again_and_again_ends_as_if_nothing_had_happened(
    first_version: tuple[TinyLineage, Commands], empty_home: Commands
) -> None:
    """Same sources, another store: killed in training, before the verdict, before MLflow."""
    lineage, undisturbed = first_version
    for target, call in (
        ("tasks.refresh_commit.publish_suite", 1),
        ("flows.update_steps.train_plan", 1),
        ("training.checkpoint.outbox.commit", 3),
        ("flows.update_judging.export_candidate", 1),
        ("flows.update_judging.score_candidate", 1),
        ("tasks.publish.commit_change", 1),
        ("flows.mirror.mirror", 1),
        ("storage.registry._point_alias", 1),
    ):
        killed = empty_home.run("update", lineage.file, prepare=kill_at(target, call))
        assert killed.code == -9, (target, killed.err)
    ended = empty_home.run("update", lineage.file, "--json")
    assert ended.code == 0, ended.err

    head, expected = newest(empty_home), newest(undisturbed)
    assert head.champion is not None
    assert head.versions == expected.versions
    assert head.champion == expected.champion
    assert head.number == expected.number
    assert weights_of(empty_home, head.champion) == weights_of(undisturbed, head.champion)
    assert versions_of(empty_home.home, "tiny") == {"1": head.champion}
    assert alias_of(empty_home.home, "tiny") == "1"
    assert runs_of(empty_home.home, "tiny") == ["FINISHED"]


def test_status_tells_how_far_an_interrupted_update_came(
    lineage: TinyLineage, perennial: Commands
) -> None:
    assert perennial.run("status", lineage.file, "--json").json["unfinished"] is None
    lineage.add("ledger")
    killed = kill_at("training.checkpoint.outbox.commit", 3)
    assert perennial.run("update", lineage.file, prepare=killed).code == -9
    found = perennial.run("status", lineage.file, "--json").json["unfinished"]
    newest_step = f"{LAYOUT.checkpoints(found['update'])}/step-40"
    assert (found["step"], found["steps"], found["checkpoint"]) == (40, 60, newest_step)
    told = perennial.run("status", lineage.file)
    assert told.out.startswith("servers: none; start them with 'perennial up'\n")
    done = "20,480 of 30,720 tokens (67%)"
    line = f"unfinished  {found['update']}, {done}, newest checkpoint {newest_step};"
    assert line in told.out


def test_ctrl_c_ends_an_update_and_the_next_one_goes_on(
    lineage: TinyLineage, perennial: Commands, tmp_path: Path
) -> None:
    lineage.add("ledger")
    reached = tmp_path / "reached"
    running = perennial.start(
        "update",
        lineage.file,
        prepare=pause_at("flows.update_judging.score_candidate", reached, tmp_path / "never"),
    )
    wait_for(reached)
    running.interrupt()
    ended = running.wait()
    assert ended.code == 130, ended.err
    assert "Traceback" not in ended.err
    assert "interrupted; run the same command again to go on" in ended.err
    again = perennial.run("update", lineage.file, "--json")
    assert again.code == 3
    assert "saved lineages" not in again.err


def test_an_imported_base_is_guarded_by_its_reference(
    prefect_server: str, empty_home: Commands, tmp_path: Path
) -> None:
    lineage = TinyLineage(tmp_path / "lineage")
    hub_directory(lineage.folder / "base")
    lineage.add("prose")
    lineage.add("ledger")
    base = {"model": None, "directory": "base", "reference": [source("prose")]}
    lineage.write(base=base, sources=[source("ledger")], budget={"tokens": 20 * 16 * SEQ_LEN})
    ended = empty_home.run("update", lineage.file, "--json")
    assert ended.code in (0, 3, 4), ended.err
    imported, update = newest(empty_home).versions
    assert (imported.verdict, imported.decision) == ("IMPORTED", "published")
    assert update.parent == imported.version
    roles = [record.role for record in newest(empty_home).snapshots]
    assert roles == ["reference", "new"]
    verdict = json.loads(
        (empty_home.home / "store" / LAYOUT.update(update.update) / "verdict.json").read_text()
    )
    assert {(row["domain"], row["role"]) for row in verdict["rows"]} >= {("prose", "old")}


def test_an_unguarded_base_needs_a_person_or_a_word_in_the_yaml(
    prefect_server: str, empty_home: Commands, tmp_path: Path
) -> None:
    lineage = TinyLineage(tmp_path / "lineage")
    hub_directory(lineage.folder / "base")
    lineage.add("ledger")
    base = {"model": None, "directory": "base"}
    lineage.write(base=base, sources=[source("ledger")])
    ended = empty_home.run("update", lineage.file, "--json")
    assert ended.code == 4, ended.err
    assert "unguarded" in ended.json["message"] or "reference" in ended.json["message"]

    accepting = Commands(tmp_path / "other" / "home")
    lineage.write(base=base, sources=[source("ledger")], check={"accept_unguarded": True})
    assert accepting.run("update", lineage.file).code == 0


def test_the_history_is_one_chain_with_a_reason_for_every_state(
    lineage: TinyLineage, perennial: Commands
) -> None:
    told = perennial.run("history", lineage.file, "--json")
    heads = history(LocalObjects(perennial.home / "store"), LAYOUT)
    assert [row["number"] for row in json.loads(told.out)] == [head.number for head in heads]
    assert [head.number for head in heads] == list(range(1, len(heads) + 1))


def test_what_mlflow_lost_is_shown_again_by_the_next_command(
    lineage: TinyLineage, perennial: Commands
) -> None:
    shutil.rmtree(perennial.home / "mlflow")
    assert perennial.run("update", lineage.file, "--json").json["kind"] == NOTHING
    assert versions_of(perennial.home, "tiny") == {"1": newest(perennial).champion}
    assert alias_of(perennial.home, "tiny") == "1"
    assert runs_of(perennial.home, "tiny") == ["FINISHED"]
    assert logged_steps_of(perennial.home, "tiny", "train/loss") == list(range(1, 101))
    # Again with nothing changed in the lineage since MLflow was told.
    shutil.rmtree(perennial.home / "mlflow")
    assert perennial.run("update", lineage.file).code == 0
    assert alias_of(perennial.home, "tiny") == "1"


def test_a_broken_mlflow_stops_no_verdict_and_is_told(
    lineage: TinyLineage, perennial: Commands
) -> None:
    lineage.add("ledger")
    database = perennial.home / "mlflow" / "mlflow.db"
    database.write_bytes(b"no database" * 1000)
    ended = perennial.run("update", lineage.file)
    assert ended.code == 3
    assert "is committed, champion 1-" in ended.err
    assert "MLflow could not be told (DatabaseError" in ended.err
    assert "MLflow does not show this yet" in ended.out
    assert "Traceback" not in ended.err
    assert [record.verdict for record in newest(perennial).versions] == ["PASS", "FAIL"]
    database.unlink()
    assert perennial.run("update", lineage.file).code == 0
    assert len(versions_of(perennial.home, "tiny")) == 2
    assert runs_of(perennial.home, "tiny") == ["FINISHED", "FINISHED"]
