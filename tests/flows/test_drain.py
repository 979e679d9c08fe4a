"""SIGTERM with notice: training is saved, the lease given back, and the next run goes on."""

import signal
import subprocess
import sys

from storage.lease import read_lease
from storage.local_objects import LocalObjects
from tests.flows.test_update import LAYOUT, newest, weights_of
from tests.support.commands import Commands, kill_at
from tests.support.mlflow_tables import reasons_of, runs_of
from tests.support.tiny_lineage import TinyLineage
from training.checkpoint_index import committed_steps
from training.metrics import STEP, read_metrics

STOPPED_IN_STEP = 30


def test_sigterm_saves_the_step_it_is_in_and_the_next_run_ends_as_if_nothing_had_happened(
    first_version: tuple[TinyLineage, Commands], empty_home: Commands
) -> None:
    lineage, undisturbed = first_version
    asked = kill_at("training.loop.lr_at", STOPPED_IN_STEP, signal.SIGTERM)
    ended = empty_home.run("update", lineage.file, "--json", prepare=asked)
    assert (ended.code, ended.json["kind"]) == (0, "stopped"), ended.err
    assert f"has done {STOPPED_IN_STEP} of 100 steps; run it again" in ended.json["message"]
    assert ended.json["message"].endswith("\nrun the same command again to go on")
    assert "Traceback" not in ended.err
    store = LocalObjects(empty_home.home / "store")
    lease = read_lease(store, LAYOUT)
    assert lease is not None
    assert lease.holder == ""
    keys = [info.key for info in store.list(LAYOUT.root)]
    (update,) = {key.split("/")[3] for key in keys if "/checkpoints/" in key}
    assert committed_steps(store, LAYOUT.checkpoints(update))[0] == STOPPED_IN_STEP
    assert read_metrics(store, LAYOUT.metrics(update))[-1][STEP] == STOPPED_IN_STEP
    assert runs_of(empty_home.home, "tiny") == ["KILLED"]
    assert reasons_of(empty_home.home, "tiny") == ["interrupted; the next update goes on with it"]

    again = empty_home.run("update", lineage.file)
    assert again.code == 0, again.err
    champion = newest(empty_home).champion
    assert champion is not None
    assert champion == newest(undisturbed).champion
    assert weights_of(empty_home, champion) == weights_of(undisturbed, champion)


PROGRAM = """
import os, signal, sys, time
from flows.drain import end_well_on_sigterm, heeded_sigterm
end_well_on_sigterm()
with heeded_sigterm() as asked:
    os.kill(os.getpid(), signal.SIGTERM)
    assert asked.is_set()
    if sys.argv[1] == "twice":
        os.kill(os.getpid(), signal.SIGTERM)
print("the body has ended", flush=True)
os.kill(os.getpid(), signal.SIGTERM)
print("not reached")
"""


def test_the_first_sigterm_is_heeded_and_the_second_one_ends_the_command_at_once() -> None:
    for times, out in (("once", "the body has ended\n"), ("twice", "")):
        ended = subprocess.run(
            [sys.executable, "-c", PROGRAM, times], capture_output=True, text=True, timeout=60
        )
        assert (ended.returncode, ended.stdout) == (0, out)
        assert ended.stderr.splitlines()[-1] == "stopped; run the same command again to go on"
