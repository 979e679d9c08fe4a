"""The watch mends what is sick, leaves alone what is well or stopped, and gives way to another."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infra.settings import Settings
from infra.stack.parts import part_names
from infra.stack.state import PartRecord, StackError, StackFolder, StackState, write_state
from infra.stack.status import Condition, PartStatus
from infra.stack.watch import LOOK_SECONDS, is_mine, mend_once, sick_parts

PORTS = {"prefect": 4200, "mlflow": 5000, "ray-head": 6379, "ray-dashboard": 8265}


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("PERENNIAL_HOME", str(tmp_path))
    StackFolder(tmp_path).make()
    return Settings()


@pytest.fixture
def mended(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """The homes that ``perennial up`` was done in again."""
    homes: list[Settings] = []

    def start(settings: Settings, *, tell: Callable[[str], None]) -> None:
        homes.append(settings)

    monkeypatch.setattr("infra.stack.control.start", start)
    return homes


def conditions(monkeypatch: pytest.MonkeyPatch, **found: Condition) -> None:
    parts = [
        PartStatus(part=name, condition=condition, pid=1, url="", since="", log="")
        for name, condition in found.items()
    ]
    monkeypatch.setattr("infra.stack.watch.inspect", lambda _: parts)


def remember(settings: Settings, *, is_up: bool = True, pid: int = 1) -> None:
    record = PartRecord(pid=pid, started="1", machine="m", since="2026-01-01")
    state = StackState(is_up=is_up, ports=PORTS, parts={"watch": record})
    write_state(StackFolder(settings.home_path), state)


@pytest.mark.parametrize("condition", ["dead", "not answering"])
def test_what_is_sick_is_mended_as_by_another_up(
    condition: Condition,
    settings: Settings,
    mended: list[Settings],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    remember(settings)
    conditions(monkeypatch, prefect="running", ray_head=condition)
    assert sick_parts(settings) == ["ray_head"]
    assert mend_once(settings, 99) == LOOK_SECONDS
    assert mended == [settings]


def test_what_runs_or_is_just_being_started_or_was_stopped_by_a_person_is_left_alone(
    settings: Settings, mended: list[Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    remember(settings)
    conditions(monkeypatch, prefect="running", mlflow="starting")
    assert mend_once(settings, 3) == LOOK_SECONDS
    remember(settings, is_up=False)
    conditions(monkeypatch, prefect="dead")
    assert mend_once(settings, 3) == LOOK_SECONDS
    assert mended == []


def test_what_does_not_start_is_tried_again_after_longer_and_longer_pauses(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise StackError("the Ray head must answer within 120 s, and did not")

    monkeypatch.setattr("infra.stack.control.start", refuse)
    remember(settings)
    conditions(monkeypatch, prefect="dead")
    pauses = [LOOK_SECONDS]
    for _ in range(10):
        pauses.append(mend_once(settings, pauses[-1]))
    assert pauses[:4] == [3.0, 6.0, 12.0, 24.0]
    assert pauses[-1] == 300.0
    assert "must answer within 120 s, and did not; tried again in 6 s" in caplog.text


def test_a_watch_ends_when_the_stack_is_down_or_another_one_watches(settings: Settings) -> None:
    remember(settings, pid=os.getpid())
    assert is_mine(settings)
    remember(settings, pid=os.getpid() + 1)
    assert not is_mine(settings)
    remember(settings, pid=os.getpid(), is_up=False)
    assert not is_mine(settings)


def test_every_stack_is_watched() -> None:
    assert part_names(StackState())[-1] == "watch"
