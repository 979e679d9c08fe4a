"""Checkpoints behind the training: nothing is lost, nothing is half, and nobody waits for long."""

import logging
import resource
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import nn

from storage.errors import AccessError, UnavailableError
from storage.local_objects import LocalObjects
from tests.support.waiting import wait_for
from tests.training.tiny_run import tensors_of, tiny_plan
from training.checkpoint.buffers import HostBuffers
from training.checkpoint.index import CheckpointConfig, committed_steps, latest, step_prefix
from training.checkpoint.restore import load_weights
from training.checkpoint.run_life import begin_life
from training.checkpoint.saver import CheckpointSaver
from training.checkpoint.state import TrainState, save
from training.config import TrainPlan
from training.errors import StaleLifeError
from training.model_files import build_model
from training.optim import build_optimizer

PATIENT = CheckpointConfig(store_wait_seconds=60)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.checkpoint.outbox.RETRY_SECONDS", 0.05)


class RemoteStore(LocalObjects):
    """A store without files of its own to read, as S3 is; it can be away, and made to wait."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.error: Exception | None = None
        self.may_send = threading.Event()
        self.may_send.set()
        self.downloads: list[str] = []

    def put_file(self, key: str, path: Path, **_: Any) -> None:
        self.may_send.wait()
        if self.error is not None:
            raise self.error
        super().put_file(key, path)

    def get_file(self, key: str, path: Path) -> None:
        self.downloads.append(key)
        super().get_file(key, path)

    def local_path(self, key: str) -> Path | None:  # noqa: ARG002  a verb
        return None


@pytest.fixture
def store(tmp_path: Path) -> Generator[RemoteStore]:
    made = RemoteStore(tmp_path / "store")
    yield made
    made.may_send.set()


@pytest.fixture
def plan(store: RemoteStore, tmp_path: Path) -> TrainPlan:
    return tiny_plan(tmp_path / "store")[0]


@pytest.fixture
def state(plan: TrainPlan) -> TrainState:
    model = cast("nn.Module", build_model(plan.model, seed=plan.seed))
    state = TrainState(model=model, optimizer=build_optimizer(model, plan.optimizer))
    update(state)
    return state


def update(state: TrainState) -> None:
    """An optimizer step."""
    for index, parameter in enumerate(state.model.parameters()):
        parameter.grad = torch.full_like(parameter, 0.1 * (index + state.step + 1))
    for group in state.optimizer.param_groups:
        group["lr"] = 0.1
    state.optimizer.step()
    state.step += 1


def expected_after(plan: TrainPlan, state: TrainState, root: Path) -> tuple[str, str]:
    """Hashes of a checkpoint that is saved at once."""
    elsewhere = LocalObjects(root)
    return tensors_of(elsewhere, save(elsewhere, plan, state, {}, root / "work"))


def test_a_state_that_changes_after_the_copy_is_saved_as_it_was(
    store: RemoteStore, plan: TrainPlan, state: TrainState, tmp_path: Path
) -> None:
    saver = CheckpointSaver(store, plan, tmp_path / "work")
    expected: dict[int, tuple[str, str]] = {}
    for _ in range(5):
        expected[state.step] = expected_after(plan, state, tmp_path / "at-once" / str(state.step))
        saver.start(state, {})
        saver.wait_until_copied()
        update(state)
    saver.close(is_complete=True)
    steps = committed_steps(store, plan.checkpoint_prefix)
    assert steps[:2] == [5, 4]
    for step in steps:
        assert tensors_of(store, step_prefix(plan.checkpoint_prefix, step)) == expected[step]


def test_what_is_changed_without_waiting_for_the_copy_is_seen_in_the_bytes(
    store: RemoteStore,
    plan: TrainPlan,
    state: TrainState,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The wait matters: without it the checkpoint is of no step at all."""
    expected = expected_after(plan, state, tmp_path / "at-once")
    may_copy = threading.Event()
    copied = HostBuffers.prepare

    def late(self: Any, parts: Any) -> Callable[[], None]:
        fill = copied(self, parts)
        return lambda: (may_copy.wait(), fill())[1]

    monkeypatch.setattr(HostBuffers, "prepare", late)
    saver = CheckpointSaver(store, plan, tmp_path / "work")
    saver.start(state, {})
    update(state)
    may_copy.set()
    saver.close(is_complete=True)
    assert tensors_of(store, step_prefix(plan.checkpoint_prefix, 1)) != expected


def test_a_slow_store_holds_the_run_up_and_loses_nothing(
    store: RemoteStore, plan: TrainPlan, state: TrainState, tmp_path: Path
) -> None:
    store.may_send.clear()
    config = CheckpointConfig(keep_newest=10)
    saver = CheckpointSaver(store, plan, tmp_path / "work", config=config)
    begun: list[int] = []

    def run() -> None:
        for _ in range(5):
            saver.start(state, {})
            begun.append(state.step)
            saver.wait_until_copied()
            update(state)
        saver.close(is_complete=True)

    runner = threading.Thread(target=run)
    runner.start()
    # One is sent, one waits on the disk; the next one has to wait before it begins.
    wait_for(lambda: len(begun) >= 2, 20, "two saves to begin")
    runner.join(0.3)
    assert len(begun) <= 3
    assert committed_steps(store, plan.checkpoint_prefix) == []
    store.may_send.set()
    runner.join(30)
    assert committed_steps(store, plan.checkpoint_prefix) == [5, 4, 3, 2, 1]


def test_a_run_goes_on_without_its_store_and_catches_up(
    store: RemoteStore,
    plan: TrainPlan,
    state: TrainState,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    plan = replace(plan, trunk_step=3)
    saver = CheckpointSaver(store, plan, tmp_path / "work", config=PATIENT)
    store.error = UnavailableError("the store does not answer")
    for _ in range(6):
        saver.start(state, {})
        saver.wait_until_copied()
        update(state)
    run = tmp_path / "work" / plan.checkpoint_prefix
    # The newest of them and the trunk; what they supersede is not kept.
    wait_for(lambda: {p.name for p in run.iterdir()} == {"step-3", "step-6"}, 20, "two to stay")
    assert committed_steps(store, plan.checkpoint_prefix) == []
    assert caplog.text.count("checkpoints stay on this machine") == 1
    store.error = None
    caplog.set_level(logging.INFO)
    saver.close(is_complete=True)
    assert committed_steps(store, plan.checkpoint_prefix) == [6, 3]
    assert "is back" in caplog.text


def test_a_finished_run_whose_store_stays_away_fails_with_a_sentence(
    store: RemoteStore, plan: TrainPlan, state: TrainState, tmp_path: Path
) -> None:
    config = CheckpointConfig(store_wait_seconds=0.2)
    saver = CheckpointSaver(store, plan, tmp_path / "work", config=config)
    store.error = UnavailableError("the store does not answer")
    saver.start(state, {})
    with pytest.raises(
        UnavailableError,
        match=r"step 1 of u1 must be in the store file:.* away or full for 0\.2 s; mend the store",
    ):
        saver.close(is_complete=True)


def test_what_fails_behind_the_training_is_raised_in_it(
    store: RemoteStore, plan: TrainPlan, state: TrainState, tmp_path: Path
) -> None:
    saver = CheckpointSaver(store, plan, tmp_path / "work")
    store.error = AccessError("the store refuses our credentials")
    saver.start(state, {})

    def later_steps() -> None:
        while True:
            saver.wait_until_copied()

    with pytest.raises(AccessError, match="refuses our credentials"):
        later_steps()
    with pytest.raises(AccessError, match="refuses our credentials"):
        saver.close(is_complete=True)


def test_a_life_that_ends_by_an_error_finishes_what_it_saves(
    store: RemoteStore, plan: TrainPlan, state: TrainState, tmp_path: Path
) -> None:
    saver = CheckpointSaver(store, plan, tmp_path / "work")
    saver.start(state, {})
    saver.close(is_complete=False)
    assert latest(store, plan.checkpoint_prefix) == step_prefix(plan.checkpoint_prefix, 1)
    gone = CheckpointSaver(store, plan, tmp_path / "work")
    store.error = UnavailableError("the store does not answer")
    update(state)
    gone.start(state, {})
    gone.close(is_complete=False)
    assert committed_steps(store, plan.checkpoint_prefix) == [1]


def test_a_stale_worker_commits_nothing(
    store: RemoteStore, plan: TrainPlan, state: TrainState, tmp_path: Path
) -> None:
    old = begin_life(store, plan.checkpoint_prefix)
    saver = CheckpointSaver(store, plan, tmp_path / "old", life=old)
    store.may_send.clear()
    saver.start(state, {})
    # The machine is cut off; its run is started elsewhere.
    new = begin_life(store, plan.checkpoint_prefix)
    store.may_send.set()
    with pytest.raises(
        StaleLifeError, match=r"life 1 of the run .* and life 2 has begun meanwhile"
    ):
        saver.close(is_complete=True)
    assert committed_steps(store, plan.checkpoint_prefix) == []
    current = CheckpointSaver(store, plan, tmp_path / "new", life=new)
    current.start(state, {})
    current.close(is_complete=True)
    assert committed_steps(store, plan.checkpoint_prefix) == [1]


def test_lives_that_begin_at_once_get_numbers_of_their_own(
    store: RemoteStore, plan: TrainPlan
) -> None:
    begun: list[int] = []
    threads = [
        threading.Thread(
            target=lambda: begun.append(begin_life(store, plan.checkpoint_prefix).number)
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(begun) == [1, 2, 3, 4]


@contextmanager
def file_size_limit(num_bytes: int) -> Generator[None]:
    """What a full disk does to a write, without filling one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_costs_that_checkpoint_and_nothing_else(
    store: RemoteStore,
    plan: TrainPlan,
    state: TrainState,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    saver = CheckpointSaver(store, plan, tmp_path / "work")
    run = tmp_path / "work" / plan.checkpoint_prefix
    saver.start(state, {})
    saver.wait_until_copied()
    wait_for(lambda: committed_steps(store, plan.checkpoint_prefix) == [1], 20, "a first one")
    update(state)
    with file_size_limit(10_000):
        saver.start(state, {})
        saver.wait_until_copied()
        wait_for(lambda: "no room for the checkpoint of step 2" in caplog.text, 20, "a warning")
    wait_for(lambda: [path.name for path in run.iterdir()] == ["step-1"], 20, "no half of step 2")
    assert latest(store, plan.checkpoint_prefix) == step_prefix(plan.checkpoint_prefix, 1)
    update(state)
    saver.start(state, {})
    saver.close(is_complete=True)
    assert committed_steps(store, plan.checkpoint_prefix) == [3, 1]
    assert tensors_of(store, step_prefix(plan.checkpoint_prefix, 3)) == expected_after(
        plan, state, tmp_path / "at-once"
    )


def test_the_newest_checkpoint_stays_on_this_machine_and_is_verified(
    store: RemoteStore,
    plan: TrainPlan,
    state: TrainState,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    saver = CheckpointSaver(store, plan, tmp_path / "work")
    for _ in range(3):
        saver.start(state, {})
        saver.wait_until_copied()
        update(state)
    saver.close(is_complete=True)
    run = tmp_path / "work" / plan.checkpoint_prefix
    assert [path.name for path in run.iterdir()] == ["step-3"]
    checkpoint = step_prefix(plan.checkpoint_prefix, 3)
    whole = load_weights(store, checkpoint, tmp_path / "work")
    assert store.downloads == []
    (copy,) = (run / "step-3").glob("model-*")
    body = bytearray(copy.read_bytes())
    body[-1] ^= 1
    copy.write_bytes(body)
    again = load_weights(store, checkpoint, tmp_path / "work")
    assert store.downloads == [f"{checkpoint}/{copy.name}"]
    assert f"fetched again: {checkpoint}/{copy.name} was altered in tensor model." in caplog.text
    assert all(torch.equal(again[name], whole[name]) for name in whole)


def test_permanent_checkpoints_stay(
    store: RemoteStore, plan: TrainPlan, state: TrainState, tmp_path: Path
) -> None:
    config = CheckpointConfig(keep_newest=1, permanent_every_steps=2)
    saver = CheckpointSaver(store, plan, tmp_path / "work", config=config)
    for _ in range(5):
        saver.start(state, {})
        saver.wait_until_copied()
        update(state)
    saver.close(is_complete=True)
    # Of the others the newest, and the one that a rewind would go back to.
    assert {5, 4, 2} <= set(committed_steps(store, plan.checkpoint_prefix))
    marked = {info.key for info in store.list(plan.checkpoint_prefix) if "keep" in info.key}
    assert marked == {f"{plan.checkpoint_prefix}/step-{step}/keep.json" for step in (2, 4)}
