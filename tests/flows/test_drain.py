"""SIGTERM with notice: training is saved, the lease given back, and the next run goes on."""

import os
import signal
import subprocess
import sys
import threading

import pytest
from prefect.utilities.engine import capture_sigterm, is_prefect_sigterm_handler_installed

from flows.drain import drained
from storage.lease_record import read_lease
from storage.local_objects import LocalObjects
from tests.flows.test_update import LAYOUT, newest, weights_of
from tests.support.commands import Commands, kill_at
from tests.support.mlflow_tables import reasons_of, runs_of
from tests.support.tiny_lineage import TinyLineage
from tests.support.waiting import wait_for
from training.checkpoint.index import committed_steps
from training.metrics import STEP, read_metrics

STOPPED_IN_STEP = 30


def test_sigterm_saves_the_step_it_is_in_and_the_next_run_ends_as_if_nothing_had_happened(
    first_version: tuple[TinyLineage, Commands], empty_home: Commands
) -> None:
    lineage, undisturbed = first_version
    asked = kill_at("training.loop.lr_at", STOPPED_IN_STEP, signal.SIGTERM)
    ended = empty_home.run("update", lineage.file, "--json", prepare=asked)
    assert (ended.code, ended.json["kind"]) == (0, "stopped"), ended.err
    assert ended.json["message"].endswith("\nrun the same command again to go on")
    assert "Traceback" not in ended.err
    store = LocalObjects(empty_home.home / "store")
    lease = read_lease(store, LAYOUT)
    assert lease is not None
    assert lease.holder == ""
    keys = [info.key for info in store.list(LAYOUT.root)]
    (update,) = {key.split("/")[3] for key in keys if "/checkpoints/" in key}
    last = committed_steps(store, LAYOUT.checkpoints(update))[0]
    # Signals are heard in another thread, a moment later.
    assert STOPPED_IN_STEP <= last < STOPPED_IN_STEP + 20
    assert f"has done {last} of 100 steps; run it again" in ended.json["message"]
    assert read_metrics(store, LAYOUT.metrics(update))[-1][STEP] == last
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
from flows.drain import drained, end_well_on_sigterm
from prefect.utilities.engine import capture_sigterm

end_well_on_sigterm()

def work(asked):
    os.kill(os.getpid(), signal.SIGTERM)
    assert asked.wait(30)
    if sys.argv[1] == "twice":
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    return "the work has ended"

with capture_sigterm():
    print(drained(work), flush=True)
os.kill(os.getpid(), signal.SIGTERM)
print("not reached")
"""
SERVED = {"PREFECT__RUNTIME__DEPLOYMENT__ID": "of-a-test"}


@pytest.mark.parametrize(
    ("times", "served", "out"),
    [("once", {}, "the work has ended\n"), ("twice", {}, ""), ("once", SERVED, "")],
)
def test_the_first_sigterm_is_heeded_and_the_second_one_ends_the_command_at_once(
    times: str, served: dict[str, str], out: str
) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, times],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **served},
    )
    assert (ended.returncode, ended.stdout) == (0, out), ended.stderr
    assert ended.stderr.splitlines()[-1] == "stopped; run the same command again to go on"


def test_what_the_work_raises_is_raised() -> None:
    def work(_: object) -> None:
        raise ValueError("no such thing")

    with pytest.raises(ValueError, match="no such thing"):
        drained(work)


def test_prefects_own_handler_of_sigterm_stays_while_the_work_runs() -> None:
    with capture_sigterm():
        assert drained(lambda _: is_prefect_sigterm_handler_installed())


def test_a_signal_that_the_thread_of_the_work_hears_is_heeded() -> None:
    main = threading.get_ident()
    places: list[tuple[str, int]] = []

    def is_asleep() -> bool:
        frame = sys._current_frames()[main]
        places.append((frame.f_code.co_name, frame.f_lasti))
        return len(places) > 1 and places[-1] == places[-2]

    def work(asked: threading.Event) -> bool:
        wait_for(is_asleep, 30, "the thread that waits for this one")
        # The system may choose any thread; none of them wakes the one that waits.
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
        return asked.wait(5)

    with capture_sigterm():
        assert drained(work)
