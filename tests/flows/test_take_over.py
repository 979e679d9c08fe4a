"""An update that was stopped, and a YAML that was changed before the next one."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from storage.head import read_head
from storage.layout import Layout
from storage.lease import Lease
from storage.ledger import read_ledger
from storage.local_objects import LocalObjects
from tasks.update_plan import UpdatePlan, load_plan
from tests.support.commands import Commands, kill_at
from tests.support.tiny_lineage import SEQ_LEN, TinyLineage
from training.metrics import LOSS, LR, STEP, read_metrics
from training.schedule import lr_at

LAYOUT = Layout("tiny")
BATCH_TOKENS = 16 * SEQ_LEN


def store_of(commands: Commands) -> LocalObjects:
    return LocalObjects(commands.home / "store")


def newest_plan(commands: Commands) -> UpdatePlan:
    store = store_of(commands)
    head = read_head(store, LAYOUT)
    assert head is not None
    return load_plan(store, LAYOUT, head.versions[-1].update)


def rates_of(commands: Commands, plan: UpdatePlan) -> dict[int, float]:
    rows = read_metrics(store_of(commands), LAYOUT.metrics(plan.id))
    return {row[STEP]: row[LR] for row in rows}


def losses_of(commands: Commands, update: str) -> list[float]:
    rows = read_metrics(store_of(commands), LAYOUT.metrics(update))
    return [row[LOSS] for row in rows]


def is_counted(commands: Commands, plan: UpdatePlan, *, steps: int) -> bool:
    """Whether the ledger has just these steps; the ends of rows belong to no document."""
    rows = read_ledger(store_of(commands), LAYOUT, plan.id)
    return sum(row.tokens for row in rows) == pytest.approx(steps * BATCH_TOKENS, rel=0.002)


@dataclass(frozen=True, slots=True)
class Stopped:
    update: str
    lineage: TinyLineage
    home: Path


@pytest.fixture(scope="module")
def killed(
    first_version: tuple[TinyLineage, Commands], tmp_path_factory: pytest.TempPathFactory
) -> Stopped:
    """An update that was killed when it had a checkpoint of step 40 of 60."""
    folder = tmp_path_factory.mktemp("killed")
    shutil.copytree(first_version[1].home, folder / "home")
    lineage = TinyLineage(folder / "lineage", prose=first_version[0].folder / "prose")
    lineage.write()
    lineage.add("ledger")
    commands = Commands(folder / "home")
    dying = kill_at("training.checkpoint.outbox.commit", 3)
    assert commands.run("update", lineage.file, prepare=dying).code == -9
    with Lease.acquire(store_of(commands), LAYOUT, "test") as lease:
        update = lease.unfinished
    # What merely grew is no change.
    lineage.add("ledger", part=2)
    assert commands.run("refresh", lineage.file).code == 0
    return Stopped(update, lineage, commands.home)


@pytest.fixture
def perennial(killed: Stopped, tmp_path: Path) -> Commands:
    """Commands on a copy of the store of the killed update, whose YAML has another rate now."""
    shutil.copytree(killed.home, tmp_path / "home")
    killed.lineage.write(recipe={"schedule": {"eta_max": 0.01}})
    return Commands(tmp_path / "home")


@pytest.fixture
def lineage(killed: Stopped) -> TinyLineage:
    return killed.lineage


@pytest.fixture
def stopped(killed: Stopped) -> str:
    return killed.update


def test_a_changed_rate_is_refused_by_name_until_it_is_taken_over_or_put_back(
    stopped: str, lineage: TinyLineage, perennial: Commands, tmp_path: Path
) -> None:
    sentence = (
        f"recipe.schedule.eta_max is 0.01, the unfinished update {stopped} was begun with 0.02 "
        "(step 40 of 60); put it back, or go on from it with 'perennial update --take-over "
        "continue' (or new-phase, or weights-only), or discard it with 'perennial update "
        "--take-over nothing'"
    )
    for command in ("update", "plan"):
        refused = perennial.run(command, lineage.file)
        assert (refused.code, refused.error) == (2, f"error: {sentence}")
        assert "Traceback" not in refused.err
    status = perennial.run("status", lineage.file, "--json").json["unfinished"]
    assert (status["update"], status["refused"]) == (stopped, sentence)

    shutil.copytree(perennial.home, tmp_path / "put-back")
    lineage.write()
    put_back = Commands(tmp_path / "put-back")
    assert put_back.run("update", lineage.file, "--json").code == 3
    assert newest_plan(put_back).id == stopped
    assert is_counted(put_back, newest_plan(put_back), steps=60)


def test_continuing_holds_the_new_rate_from_here_on_whenever_it_is_killed(
    stopped: str, lineage: TinyLineage, perennial: Commands
) -> None:
    take = ("update", lineage.file, "--take-over", "continue", "--json")
    killed = kill_at("training.checkpoint.outbox.commit", 1)
    assert perennial.run(*take, prepare=killed).code == -9
    # What it goes on from is still needed, and is no garbage.
    removed = perennial.run("gc", lineage.file, "--grace-hours", "0", "--delete", "--json")
    assert not any(stopped in key for key in removed.json["keys"])
    # The same again, as a run that is retried does; without it, it goes on as well.
    assert perennial.run(*take).code == 3
    plan = newest_plan(perennial)
    origin = plan.train.taken_over
    assert origin is not None
    assert (origin.update, origin.step, origin.mode) == (stopped, 40, "continue")
    assert plan.snapshots == load_plan(store_of(perennial), LAYOUT, stopped).snapshots
    expected = {step: lr_at(step * BATCH_TOKENS, plan.train.schedule) for step in range(41, 61)}
    assert rates_of(perennial, plan) == pytest.approx(expected)
    assert plan.train.schedule.eta_max == 0.01
    assert is_counted(perennial, plan, steps=60)


@pytest.mark.parametrize("mode", ["new-phase", "weights-only"])
def test_a_new_phase_has_its_own_schedule_and_length_and_the_ledger_counts_both(
    mode: str, stopped: str, lineage: TinyLineage, perennial: Commands
) -> None:
    assert perennial.run("update", lineage.file, "--take-over", mode).code in (0, 3, 4)
    plan = newest_plan(perennial)
    origin = plan.train.taken_over
    assert origin is not None
    assert (origin.update, origin.step, origin.first_step) == (stopped, 40, 0)
    assert plan.train.optimizer.moments == ("keep" if mode == "new-phase" else "reset")
    # It begins with what was learned until then.
    assert losses_of(perennial, plan.id)[0] < min(losses_of(perennial, stopped)[:5])
    # A whole update, of all that is pending by now.
    assert len(plan.snapshots) == 2
    rates = rates_of(perennial, plan)
    assert list(rates) == list(range(1, 61))
    assert max(rates.values()) == pytest.approx(0.01, rel=0.01)
    assert is_counted(perennial, plan, steps=40 + 60)


def test_what_is_discarded_is_planned_anew(
    stopped: str, lineage: TinyLineage, perennial: Commands
) -> None:
    assert perennial.run("update", lineage.file, "--take-over", "nothing").code in (0, 3, 4)
    plan = newest_plan(perennial)
    assert plan.train.taken_over is None
    assert is_counted(perennial, plan, steps=60)
    assert stopped != plan.id
