"""A copy of a store that was made with the manual's commands while an update was under way."""

import os
import shutil
from pathlib import Path

from storage.head import history, read_head
from storage.layout import Layout
from storage.local_objects import LocalObjects
from storage.models import fetch_model
from tests.support.commands import Commands, pause_at, wait_for
from tests.support.manual import block_with, paste
from tests.support.mlflow_tables import alias_of, logged_steps_of, versions_of
from tests.support.tiny_lineage import TinyLineage
from training.metrics import STEP, read_metrics

LAYOUT = Layout("tiny")


def test_in_a_copy_of_a_folder_the_update_that_was_under_way_goes_on(
    lineage: TinyLineage, perennial: Commands, tmp_path: Path
) -> None:
    lineage.add("ledger")
    lineage.write(replay={"share": 0.5}, check={"max_loss_nats": 1, "max_cumulative_loss_nats": 1})
    reached, release = tmp_path / "reached", tmp_path / "release"
    prepare = pause_at("flows.update_steps.record_exposures", reached, release)
    started = perennial.start("update", lineage.file, prepare=prepare)
    wait_for(reached)
    places = {
        **os.environ,
        "STORE": str(perennial.home / "store"),
        "COPY": str(tmp_path),
    }
    copied = paste(block_with("tar -cf"), places)
    assert copied.returncode == 0, copied.stderr
    release.touch()
    assert started.wait().code == 0
    shutil.rmtree(perennial.home)

    restored = Commands(tmp_path / "elsewhere")
    places["STORE"] = str(restored.home / "store")
    unpacked = paste(block_with("tar -xf"), places)
    assert unpacked.returncode == 0, unpacked.stderr
    store = LocalObjects(restored.home / "store")
    before = [head.number for head in history(store, LAYOUT)]
    ended = restored.run("update", lineage.file, "--json")
    assert ended.code == 0, ended.err
    assert ended.json["kind"] == "PASS"

    heads = history(store, LAYOUT)
    assert [head.number for head in heads] == [*before, before[-1] + 1]
    head = read_head(store, LAYOUT)
    assert head is not None
    assert [record.verdict for record in head.versions] == ["PASS", "PASS"]
    assert head.champion == head.versions[-1].version
    for record in head.versions:
        fetch_model(store, LAYOUT.model(record.version), tmp_path / record.version)
    # What MLflow shows, it was told from the copy: its database was empty.
    assert versions_of(restored.home, "tiny") == {
        "1": head.versions[0].version,
        "2": head.versions[1].version,
    }
    assert alias_of(restored.home, "tiny") == "2"
    steps = [
        row[STEP]
        for record in head.versions
        for row in read_metrics(store, LAYOUT.metrics(record.update))
    ]
    assert logged_steps_of(restored.home, "tiny", "train/loss") == sorted(steps)


def test_a_finished_copy_shows_mlflow_everything_and_has_nothing_to_do(
    lineage: TinyLineage, perennial: Commands, tmp_path: Path
) -> None:
    places = {**os.environ, "STORE": str(perennial.home / "store"), "COPY": str(tmp_path)}
    assert paste(block_with("tar -cf"), places).returncode == 0
    shutil.rmtree(perennial.home)
    restored = Commands(tmp_path / "elsewhere")
    places["STORE"] = str(restored.home / "store")
    assert paste(block_with("tar -xf"), places).returncode == 0
    ended = restored.run("update", lineage.file, "--json")
    assert ended.json["kind"] == "nothing to do", ended.err
    head = read_head(LocalObjects(restored.home / "store"), LAYOUT)
    assert head is not None
    assert versions_of(restored.home, "tiny") == {"1": head.champion}
    assert alias_of(restored.home, "tiny") == "1"
