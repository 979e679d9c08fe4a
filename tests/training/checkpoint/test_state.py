"""Checkpoints: committed once, whoever saves them; whole, or never read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from storage.local_objects import LocalObjects
from storage.objects import open_store
from tests.training.local_ranks import run_ranks
from tests.training.tiny_run import LAYOUT, MODEL, tensors_of, tiny_plan
from training.checkpoint.index import discard_old, is_intact, latest, step_prefix
from training.checkpoint.restore import load_weights
from training.checkpoint.state import TrainState, save
from training.config import TrainPlan
from training.decoder.model import Decoder
from training.launch import run_training
from training.metrics import CHECKSUM, LOSS, STEP, read_metrics
from training.optim import build_optimizer


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def state_of(plan: TrainPlan, *, shift: float = 0.0) -> TrainState:
    """A state of step 3; ``shift`` stands for another order of summation."""
    model = Decoder(MODEL, seed=plan.seed)
    with torch.no_grad():
        model.get_parameter("model.norm.weight").add_(shift)
    return TrainState(model=model, optimizer=build_optimizer(model, plan.optimizer), step=3)


class Meanwhile(LocalObjects):
    """Does something else before the first call of one of its own verbs."""

    def __init__(self, root: Path, verb: str, something: Callable[[], object]) -> None:
        super().__init__(root)
        self._verb, self._something = verb, something

    def put_file(self, key: str, path: Path, **options: Any) -> None:
        self._meanwhile("put_file")
        super().put_file(key, path, **options)

    def put_if_absent(self, key: str, body: bytes) -> None:
        self._meanwhile("put_if_absent")
        super().put_if_absent(key, body)

    def _meanwhile(self, verb: str) -> None:
        if verb == self._verb:
            self._verb = ""
            self._something()


@pytest.mark.parametrize("verb", ["put_file", "put_if_absent"])
def test_of_two_lives_that_save_a_step_at_once_the_first_wins_whole(
    tmp_path: Path, verb: str
) -> None:
    plan, _ = tiny_plan(tmp_path)
    store = LocalObjects(tmp_path)
    first, second = state_of(plan), state_of(plan, shift=1e-6)

    def other_life() -> None:
        save(store, plan, first, {}, tmp_path / "first")

    saved = save(Meanwhile(tmp_path, verb, other_life), plan, second, {}, tmp_path / "second")

    assert latest(store, plan.checkpoint_prefix) == saved
    found = load_weights(store, saved, tmp_path / "work")
    assert torch.equal(found["model.norm.weight"], first.model.state_dict()["model.norm.weight"])
    assert len(list(store.list(saved))) == 4
    before = tensors_of(store, saved)
    save(store, plan, second, {}, tmp_path / "second")
    assert tensors_of(store, saved) == before


def test_a_life_that_wakes_up_late_changes_nothing_that_is_used(tmp_path: Path) -> None:
    plan, uri = tiny_plan(tmp_path / "store")
    run_ranks(plan, uri, tmp_path / "work", world_size=1, stop_at=11)
    store = open_store(uri)

    def wake_up(late: TrainState) -> None:
        """What rank 0 does after a step, on a machine that was cut off within it."""
        save(store, plan, late, {}, tmp_path / "late")
        discard_old(store, plan)

    # Step 3 was discarded long ago; 9 is what the run will resume from.
    nine = tensors_of(store, step_prefix(plan.checkpoint_prefix, 9))
    for step in (3, 6, 9):
        late = state_of(plan, shift=1e-6)
        late.step = step
        wake_up(late)
        assert latest(store, plan.checkpoint_prefix) == step_prefix(plan.checkpoint_prefix, 9)
        assert tensors_of(store, step_prefix(plan.checkpoint_prefix, 9)) == nine
    final = run_training(plan, store_uri=uri, num_workers=0, work_dir=tmp_path / "work")
    ended = tensors_of(store, final)
    late = state_of(plan, shift=1e-6)
    late.step = plan.num_steps
    wake_up(late)
    assert tensors_of(store, final) == ended
    whole, whole_uri = tiny_plan(tmp_path / "whole")
    run_training(whole, store_uri=whole_uri, num_workers=0, work_dir=tmp_path / "work-whole")
    assert tensors_of(open_store(whole_uri), final) == ended


def test_a_damaged_checkpoint_is_saved_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan, _ = tiny_plan(tmp_path)
    store = LocalObjects(tmp_path)
    saved = save(store, plan, state_of(plan), {}, tmp_path / "work")
    before = tensors_of(store, saved)
    store.put(f"{saved}/state.json", b"{}")
    assert not is_intact(store, saved)
    save(store, plan, state_of(plan), {}, tmp_path / "work")
    assert tensors_of(store, saved) == before
    assert f"checkpoint {saved} is saved again: {saved}/state.json has 2 bytes" in caplog.text


class Measuring(LocalObjects):
    """Remembers how much was read at once."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.lengths: list[int] = []

    def get(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        body = super().get(key, start=start, length=length)
        if not key.endswith("manifest.json"):
            self.lengths.append(len(body))
        return body


def test_checkpoints_are_checked_in_pieces(tmp_path: Path) -> None:
    plan, _ = tiny_plan(tmp_path)
    store = Measuring(tmp_path)
    with mock.patch("training.checkpoint.tensors.PIECE_BYTES", 100):
        saved = save(store, plan, state_of(plan), {}, tmp_path / "work")
    store.lengths.clear()
    with mock.patch("storage.manifest._PIECE_BYTES", 100):
        assert is_intact(store, saved)
        sizes = {info.key: info.size for info in store.list(saved)}
        del sizes[f"{saved}/manifest.json"]
        # All but the headers of the two tensor files, which are read whole.
        assert sorted(store.lengths)[-3] == 100
        assert sum(store.lengths) == sum(sizes.values())
        for key in sizes:
            body = store.get(key)
            store.put(key, body[:-1] + bytes([body[-1] ^ 1]))
            assert not is_intact(store, saved)
            store.put(key, body)
    assert is_intact(store, saved)


def test_a_run_goes_on_with_other_numbers_of_workers(tmp_path: Path) -> None:
    plan, uri = tiny_plan(tmp_path / "store")
    for world_size, stop_at in ((2, 5), (1, 9), (4, 11), (2, None)):
        run_ranks(plan, uri, tmp_path / "work", world_size=world_size, stop_at=stop_at)
    whole, whole_uri = tiny_plan(tmp_path / "whole")
    run_training(whole, store_uri=whole_uri, num_workers=0, work_dir=tmp_path / "work-whole")
    store = open_store(uri)
    assert is_intact(store, step_prefix(plan.checkpoint_prefix, 12))
    rows = read_metrics(store, LAYOUT.metrics("u1"))
    expected = read_metrics(open_store(whole_uri), LAYOUT.metrics("u1"))
    assert [(row[STEP], row[CHECKSUM]) for row in rows] == [
        (row[STEP], row[CHECKSUM]) for row in expected
    ]
    # Before rounding errors have grown.
    losses, wanted = ([row[LOSS] for row in found[:6]] for found in (rows, expected))
    assert losses == pytest.approx(wanted, rel=1e-4)
