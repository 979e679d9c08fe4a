"""What MLflow is told of updates that end otherwise than they should."""

import signal
from pathlib import Path

from storage.head import read_head
from storage.layout import Layout
from storage.local_objects import LocalObjects
from tests.support.commands import Commands, fail_at, kill_at, pause_at, wait_for
from tests.support.mlflow_tables import logged_steps_of, reasons_of, repeated_points_of, runs_of
from tests.support.tiny_lineage import TinyLineage

_CANARY = "canary-4f1d"


def test_a_failed_update_ends_its_run_with_the_reason_and_resumes_it(
    lineage: TinyLineage, perennial: Commands
) -> None:
    lineage.add("ledger")
    message = f"no way to postgresql://ann:{_CANARY}@db/x"
    failing = fail_at("flows.update_judging.export_candidate", message)
    assert perennial.run("update", lineage.file, prepare=failing).code == 1
    assert runs_of(perennial.home, "tiny") == ["FINISHED", "FAILED"]
    assert reasons_of(perennial.home, "tiny") == [
        "failed: RuntimeError: no way to postgresql://db/x"
    ]
    assert perennial.run("update", lineage.file).code == 3
    assert runs_of(perennial.home, "tiny") == ["FINISHED", "FINISHED"]
    assert reasons_of(perennial.home, "tiny") == []
    assert repeated_points_of(perennial.home, "tiny") == []


def test_an_interrupted_update_ends_its_run_as_killed(
    lineage: TinyLineage, perennial: Commands, tmp_path: Path
) -> None:
    lineage.add("ledger")
    reached, release = tmp_path / "reached", tmp_path / "release"
    paused = pause_at("flows.update_judging.export_candidate", reached, release)
    started = perennial.start("update", lineage.file, prepare=paused)
    wait_for(reached)
    started.interrupt()
    assert started.wait().code == 130
    assert runs_of(perennial.home, "tiny") == ["FINISHED", "KILLED"]
    assert perennial.run("update", lineage.file).code == 3
    assert runs_of(perennial.home, "tiny") == ["FINISHED", "FINISHED"]


def test_a_run_whose_process_was_killed_is_ended_by_the_next_change_to_the_lineage(
    lineage: TinyLineage, perennial: Commands
) -> None:
    lineage.add("ledger")
    dying = kill_at("flows.update_judging.export_candidate")
    assert perennial.run("update", lineage.file, prepare=dying).code == -signal.SIGKILL
    assert runs_of(perennial.home, "tiny") == ["FINISHED", "RUNNING"]
    head = read_head(LocalObjects(perennial.home / "store"), Layout("tiny"))
    assert head is not None
    promoted = perennial.run("promote", head.versions[0].version, lineage.file, "--reason", "again")
    assert promoted.code == 0, promoted.err
    assert runs_of(perennial.home, "tiny") == ["FINISHED", "KILLED"]
    assert reasons_of(perennial.home, "tiny") == ["its process died before a verdict"]
    assert perennial.run("update", lineage.file).code == 3
    assert runs_of(perennial.home, "tiny") == ["FINISHED", "FINISHED"]
    steps = logged_steps_of(perennial.home, "tiny", "train/loss")
    assert steps == sorted([*range(1, 101), *range(1, 61)])
    assert repeated_points_of(perennial.home, "tiny") == []


def test_a_password_in_the_address_of_mlflow_is_refused_and_not_shown(
    lineage: TinyLineage, perennial: Commands
) -> None:
    uri = f"http://ann:{_CANARY}@127.0.0.1:1"
    commands = Commands(perennial.home, {"PERENNIAL_MLFLOW_URI": uri})
    ended = commands.run("update", lineage.file)
    assert ended.code == 1
    assert "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in ended.error
    assert _CANARY not in ended.out + ended.err


def test_a_local_store_with_an_mlflow_server_is_refused_before_anything_is_trained(
    lineage: TinyLineage, perennial: Commands
) -> None:
    lineage.add("ledger")
    commands = Commands(perennial.home, {"PERENNIAL_MLFLOW_URI": "http://127.0.0.1:1"})
    ended = commands.run("update", lineage.file)
    assert ended.code == 1
    assert "registers no model that lies in a local folder" in ended.error
    assert "PERENNIAL_STORAGE_ROOT to s3://bucket/prefix" in ended.error
    head = read_head(LocalObjects(perennial.home / "store"), Layout("tiny"))
    assert head is not None
    assert len(head.snapshots) == 1
