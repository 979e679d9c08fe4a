"""Processes killed in the middle of an update: it is noticed, and goes on by itself, once.

The lineages have timetables, whose planned runs must not be taken for runs that took over.
"""

import os
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.integration.servers.prefect_server import PrefectServer
from tests.integration.servers.serving import LONG, Serving
from tests.support.mlflow_tables import logged_steps_of, repeated_points_of, runs_of, versions_of

pytestmark = pytest.mark.integration

NUM_STEPS = 600
"""Of an update with the budget LONG."""


@pytest.fixture
def serving(prefect: PrefectServer, tmp_path: Path) -> Iterator[Serving]:
    """A served folder of this test's own."""
    service = Serving(prefect, tmp_path / "serving")
    yield service
    service.stop()


def start_training(serving: Serving, name: str, *, times: int = 1) -> str:
    """Start an update, ``times`` as long as others, and wait for its first checkpoint."""
    far = datetime.now(UTC) + timedelta(hours=12)
    budget = {**LONG, "first_tokens": times * LONG["first_tokens"]}
    serving.add(name, budget=budget, schedule={"cron": f"0 {far.hour} * * *"}).add("prose")
    serving.start()
    serving.wait_for(lambda: serving.planned(f"update-model/{name}"), 60, "planned runs")
    run = serving.trigger(f"update-model/{name}")
    serving.wait_for_checkpoint(name, 90)
    return run


def flow_process(serving: Serving) -> int:
    """The process of the only run that is executed."""
    [child] = Path(f"/proc/{serving.pid}/task/{serving.pid}/children").read_text().split()
    return int(child)


def is_dead(pid: int) -> bool:
    """Whether a process has ended; one that nobody waited for is still listed, as a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return stat.rpartition(")")[2].split()[0] == "Z"


def assert_one_update(serving: Serving, name: str, *, times: int = 1) -> None:
    serving.assert_no_step_was_saved_twice(name)
    assert len(serving.head(name).versions) == 1
    assert len(versions_of(serving.home, name)) == 1
    assert runs_of(serving.home, name) == ["FINISHED"]
    logged = logged_steps_of(serving.home, name, "train/loss")
    assert logged == list(range(1, times * NUM_STEPS + 1))
    assert repeated_points_of(serving.home, name) == []


def test_a_killed_flow_goes_on_by_itself_and_a_killed_server_is_waited_for(
    serving: Serving, prefect: PrefectServer
) -> None:
    run = start_training(serving, "killed")
    os.kill(flow_process(serving), signal.SIGKILL)
    serving.wait_for_state(run, "Crashed", 20)
    saved = serving.checkpoints("killed")
    serving.wait_for(lambda: serving.checkpoints("killed").keys() - saved.keys(), 60, "more")
    prefect.kill()
    deaf = "Failed the last 3 attempts"
    serving.wait_for(lambda: deaf in serving.said, 60, "the runner to stop listening")
    prefect.start()
    assert serving.end_of(run, 120)["name"] == "PASS"
    states = serving.states(run)
    assert [states.count(name) for name in ("Crashed", "Resuming", "Running")] == [1, 1, 2], states
    assert_one_update(serving, "killed")
    # The runner will not hear of any cancellation any more; its service does.
    longer = {**LONG, "first_tokens": 10 * LONG["first_tokens"]}
    serving.add("unheard", budget=longer).add("prose")
    run = serving.trigger("update-model/unheard")
    serving.wait_for_checkpoint("unheard", 60)
    serving.set_state(run, "CANCELLING", "Cancelling")
    assert serving.end_of(run)["name"] == "Cancelled"
    assert "cancelled here, for the runner did not hear of it" in serving.said
    serving.wait_for_free_lease("unheard")


def test_a_run_whose_machine_is_gone_is_marked_within_90_seconds_and_resumed(
    serving: Serving,
) -> None:
    run = start_training(serving, "gone")
    child = flow_process(serving)
    died_at = time.monotonic()
    serving.stop()
    serving.wait_for(lambda: is_dead(child), 10, "the end of the flow's process")
    assert serving.run(run)["state"]["name"] == "Running"
    serving.start()
    serving.wait_for_state(run, "Crashed", 90 - (time.monotonic() - died_at))
    serving.wait_for_state(run, "Resuming", 30)
    assert serving.end_of(run, 120)["name"] == "PASS"
    assert_one_update(serving, "gone")


def test_a_flow_ends_with_its_service_and_goes_on_with_the_next(serving: Serving) -> None:
    run = start_training(serving, "orphan", times=5)
    child = flow_process(serving)
    serving.end(signal.SIGKILL)
    serving.wait_for(lambda: is_dead(child), 30, "the end of the orphan")
    assert serving.run(run)["state"]["name"] == "Crashed"
    serving.wait_for_free_lease("orphan")
    serving.start()
    # Not before it trains: Python drops an exception that a signal's handler raises in a callback
    # of the garbage collection, as happens while modules are imported.
    serving.wait_for(
        lambda: "resumes from lineages/orphan" in serving.said, 60, "the second attempt"
    )
    # Asked to end, it interrupts what it runs, without cancelling it.
    assert serving.end(signal.SIGTERM) == 0
    assert serving.run(run)["state"]["name"] == "Interrupted"
    serving.wait_for_free_lease("orphan")
    serving.start()
    assert serving.end_of(run, 120)["name"] == "PASS"
    assert_one_update(serving, "orphan", times=5)
