"""Checkpoints that only this machine has: taken over exactly, or not at all."""

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from unittest import mock

import pytest
import torch
from torch import nn

from storage.errors import UnavailableError
from storage.local_objects import LocalObjects
from storage.manifest import readable_json
from tests.support.waiting import wait_for
from tests.training.local_ranks import Stopped, run_ranks
from tests.training.tiny_run import LAYOUT, tensors_of, tiny_plan
from training.checkpoint.adoption import adopt_local
from training.checkpoint.index import CheckpointConfig, committed_steps, latest, step_prefix
from training.checkpoint.local import UnstoredRows, write_local
from training.checkpoint.run_life import begin_life
from training.checkpoint.state import TrainState, progress_of, weights_of
from training.config import TrainPlan
from training.errors import StaleLifeError
from training.guard.skips import Skip, Skips
from training.launch import run_training
from training.metrics import MEASURED, STEP, read_every_row, read_metrics
from training.model_files import build_model
from training.optim import build_optimizer, moments_of
from training.schedule import lr_at
from training.worker import run_worker


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


class AwayStore(LocalObjects):
    """A store on another machine; while it is away nothing can be written."""

    is_away = False

    def put(self, key: str, body: bytes) -> None:
        self._require()
        super().put(key, body)

    def put_if_absent(self, key: str, body: bytes) -> None:
        self._require()
        super().put_if_absent(key, body)

    def put_file(self, key: str, path: Path, **options: Any) -> None:
        self._require()
        super().put_file(key, path, **options)

    def local_path(self, key: str) -> Path | None:  # noqa: ARG002  a verb
        return None

    def _require(self) -> None:
        if self.is_away:
            raise UnavailableError("the store does not answer")


def test_a_run_goes_on_from_what_its_store_has_missed_as_if_nothing_had_happened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Steps 1 to 3 are in the store; 6 and 9 are not, nor are their rows; it dies in step 11."""
    monkeypatch.setattr("training.checkpoint.outbox.RETRY_SECONDS", 0.05)
    plan, uri = tiny_plan(tmp_path / "store")
    store = AwayStore(tmp_path / "store")
    monkeypatch.setattr("training.worker.open_store", lambda _: store)

    def hook(tokens_seen: int, schedule: Any) -> float:
        if tokens_seen == 5 * plan.global_batch_tokens:
            wait_for(lambda: committed_steps(store, plan.checkpoint_prefix) == [3], 20, "step 3")
            store.is_away = True
        if tokens_seen == 11 * plan.global_batch_tokens:
            raise Stopped
        return lr_at(tokens_seen, schedule)

    with mock.patch("training.loop.lr_at", hook), pytest.raises(Stopped):
        run_worker(plan, uri, work_dir=tmp_path / "work", num_threads=1)
    assert committed_steps(store, plan.checkpoint_prefix) == [3]
    store.is_away = False
    caplog.set_level(logging.INFO)
    run_worker(plan, uri, work_dir=tmp_path / "work", num_threads=1)
    assert "the store had missed step 9, which was on this machine" in caplog.text
    assert f"resumes from {step_prefix(plan.checkpoint_prefix, 9)}" in caplog.text

    whole, whole_uri = tiny_plan(tmp_path / "whole")
    monkeypatch.undo()
    final = run_training(whole, store_uri=whole_uri, num_workers=0, work_dir=tmp_path / "work-2")
    expected = LocalObjects(tmp_path / "whole")
    assert tensors_of(store, final) == tensors_of(expected, final)
    assert series(store) == series(expected)


def series(store: LocalObjects) -> list[dict[str, Any]]:
    """What the journal says, without the clock."""
    rows = read_metrics(store, LAYOUT.metrics("u1"))
    return [{k: v for k, v in row.items() if k not in MEASURED} for row in rows]


def test_several_ranks_go_on_from_what_rank_zero_has_brought_into_the_store(
    tmp_path: Path,
) -> None:
    plan, uri = tiny_plan(tmp_path / "store")
    store = LocalObjects(tmp_path / "store")
    run_ranks(plan, uri, tmp_path / "work", world_size=2, stop_at=8)
    six = step_prefix(plan.checkpoint_prefix, 6)
    local = tmp_path / "work" / "rank-0" / six
    shutil.copytree(tmp_path / "store" / six, local)
    (local / "rows.json").write_bytes(readable_json(UnstoredRows(())))
    for info in list(store.list(six)):
        store.delete(info.key)
    run_ranks(plan, uri, tmp_path / "work", world_size=2)
    taken = [row[STEP] for row in read_every_row(store, LAYOUT.metrics("u1"))]
    assert [taken.count(step) for step in (4, 5, 6, 8, 12)] == [1, 1, 1, 1, 1]
    whole, whole_uri = tiny_plan(tmp_path / "whole")
    run_ranks(whole, whole_uri, tmp_path / "work-2", world_size=2)
    final = step_prefix(plan.checkpoint_prefix, plan.num_steps)
    assert tensors_of(store, final) == tensors_of(LocalObjects(tmp_path / "whole"), final)


class Machine:
    """A store with step 2, and a local folder with step 5 that the store lacks."""

    def __init__(self, root: Path) -> None:
        self.plan, _ = tiny_plan(root / "store")
        self.store, self.work_dir = LocalObjects(root / "store"), root / "work"
        self.local = self.work_dir / step_prefix(self.plan.checkpoint_prefix, 5)
        self.write(2, self.plan)
        self.adopt()
        assert committed_steps(self.store, self.plan.checkpoint_prefix) == [2]
        self.write(5, self.plan)

    def write(self, step: int, plan: TrainPlan, *, skips: Skips | None = None) -> None:
        model = cast("nn.Module", build_model(plan.model, seed=step))
        optimizer = build_optimizer(model, plan.optimizer)
        state = TrainState(model=model, optimizer=optimizer, step=step, skips=skips or Skips())
        folder = self.work_dir / step_prefix(plan.checkpoint_prefix, step)
        progress = progress_of(plan, state, {})
        write_local(folder, progress, weights_of(model), moments_of(model, optimizer))

    def adopt(self, skips: Skips | None = None) -> None:
        adopt_local(
            *(self.store, self.plan, self.work_dir),
            life=begin_life(self.store, self.plan.checkpoint_prefix),
            skips=skips or Skips(),
            config=CheckpointConfig(),
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


BACK = Skip(
    number=0,
    reason="corruption",
    first_step=4,
    end_step=4,
    found_at_step=6,
    samples_sha256="",
    samples={},
    finding="made",
)


def flip(path: Path) -> None:
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.write_bytes(body)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda m: flip(next(m.local.glob("model-*"))), "was altered in tensor model"),
        (lambda m: flip(m.local / "state.json"), "state.json was altered"),
        (lambda m: flip(m.local / "manifest.json"), "manifest.json"),
        (lambda m: flip(m.local / "rows.json"), "rows.json"),
        (lambda m: (m.local / "manifest.json").unlink(), "no whole checkpoint in"),
        (lambda m: next(m.local.glob("optimizer-*")).unlink(), "is missing"),
        (lambda m: m.write(5, replace(m.plan, seed=8)), "belongs to another plan: seed"),
        (lambda m: m.write(5, m.plan, skips=Skips((BACK,))), "branch that the run went back from"),
    ],
)
def test_what_is_altered_or_of_another_run_is_named_and_passed_over(
    machine: Machine,
    caplog: pytest.LogCaptureFixture,
    spoil: Callable[[Machine], object],
    told: str,
) -> None:
    spoil(machine)
    machine.adopt()
    assert "a checkpoint of this machine cannot be used: " in caplog.text
    assert str(machine.local) in caplog.text
    assert told in caplog.text
    assert committed_steps(machine.store, machine.plan.checkpoint_prefix) == [2]
    assert not machine.local.exists()


def test_what_is_whole_is_committed_once_and_nothing_older_is(machine: Machine) -> None:
    machine.write(1, machine.plan)
    for _ in range(2):
        machine.adopt()
        prefix = machine.plan.checkpoint_prefix
        assert committed_steps(machine.store, prefix) == [5, 2]
        assert latest(machine.store, prefix) == step_prefix(prefix, 5)


def test_a_branch_that_was_left_is_not_taken_up_again(machine: Machine) -> None:
    machine.adopt(Skips((BACK,)))
    assert committed_steps(machine.store, machine.plan.checkpoint_prefix) == [2]


def test_a_life_that_was_overtaken_adopts_nothing(machine: Machine) -> None:
    old = begin_life(machine.store, machine.plan.checkpoint_prefix)
    begin_life(machine.store, machine.plan.checkpoint_prefix)
    with pytest.raises(StaleLifeError, match="must be the newest to commit"):
        adopt_local(
            *(machine.store, machine.plan, machine.work_dir),
            life=old,
            skips=Skips(),
            config=CheckpointConfig(),
        )
    assert committed_steps(machine.store, machine.plan.checkpoint_prefix) == [2]
