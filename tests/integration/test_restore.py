"""A copy of a bucket that was made with the manual's commands while an update was under way."""

import os
import sys
from pathlib import Path

import pytest

from storage.head import history, read_head
from storage.layout import Layout
from storage.models import fetch_model
from storage.objects import open_store
from tests.integration.servers.gateway import Gateway
from tests.integration.servers.prefect_server import PrefectServer
from tests.support.commands import Commands, pause_at, wait_for
from tests.support.manual import block_with, paste
from tests.support.mlflow_tables import alias_of, versions_of
from tests.support.tiny_lineage import TinyLineage

pytestmark = pytest.mark.integration

LAYOUT = Layout("tiny")
SECONDS = 180
"""For one command, on a busy machine."""


def test_in_a_copy_of_a_bucket_the_update_that_was_under_way_goes_on(
    gateway: Gateway, prefect: PrefectServer, s3_root: str, tmp_path: Path
) -> None:
    lineage = TinyLineage(tmp_path / "lineage")
    lineage.add("prose")
    lineage.write(replay={"share": 0.5}, check={"max_loss_nats": 1, "max_cumulative_loss_nats": 1})
    variables = {**gateway.environment(), **prefect.environment()}
    variables["PERENNIAL_STORAGE_ROOT"] = s3_root
    first = Commands(tmp_path / "home", environment=variables)
    ended = first.run("update", lineage.file, timeout_seconds=SECONDS)
    assert ended.code == 0, ended.err
    lineage.add("ledger")
    reached, release = tmp_path / "reached", tmp_path / "release"
    prepare = pause_at("flows.update_steps.record_exposures", reached, release)
    started = first.start("update", lineage.file, prepare=prepare)
    wait_for(reached, SECONDS)

    copy = f"s3://{gateway.new_bucket()}/copies/tuesday"
    # rclone comes with its Python package, into the folder of this Python.
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "FROM": s3_root.removeprefix("s3://"),
        "TO": copy.removeprefix("s3://"),
    }
    copied = paste(block_with("rclone copy"), environment)
    assert copied.returncode == 0, copied.stderr
    release.touch()
    assert started.wait(SECONDS).code == 0
    original = open_store(s3_root)
    for info in list(original.list(LAYOUT.root)):
        original.delete(info.key)

    store = open_store(copy)
    before = [head.number for head in history(store, LAYOUT)]
    restored = Commands(
        tmp_path / "elsewhere", environment={**variables, "PERENNIAL_STORAGE_ROOT": copy}
    )
    ended = restored.run("update", lineage.file, "--json", timeout_seconds=SECONDS)
    assert ended.code == 0, ended.err
    assert ended.json["kind"] == "PASS"
    assert [head.number for head in history(store, LAYOUT)] == [*before, before[-1] + 1]
    head = read_head(store, LAYOUT)
    assert head is not None
    for record in head.versions:
        fetch_model(store, LAYOUT.model(record.version), tmp_path / record.version)
    assert sorted(versions_of(restored.home, "tiny").values()) == sorted(
        record.version for record in head.versions
    )
    assert alias_of(restored.home, "tiny") == "2"
    assert not list(original.list(LAYOUT.root))
