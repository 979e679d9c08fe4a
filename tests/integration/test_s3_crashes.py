"""Killed writers on a real S3 server."""

import os
import signal
import threading
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from storage.objects import ObjectStore, open_store
from storage.s3_bucket import Bucket
from tests.storage.crash_contract import CrashContract
from tests.support.killing_store import KillingObjects, count_operations, kill_points, run_killed
from tests.training.tiny_run import MODEL, tensors_of, tiny_plan
from training.checkpoint.index import latest
from training.checkpoint.state import TrainState, save
from training.decoder.model import Decoder
from training.optim import build_optimizer

pytestmark = pytest.mark.integration


@pytest.fixture
def new_store(s3_root: str) -> Callable[[], ObjectStore]:
    numbers = count()
    return lambda: open_store(f"{s3_root}/{next(numbers)}")


class TestCrashesOnS3(CrashContract):
    """Killed writers on a bucket."""


def test_a_kill_at_any_operation_leaves_a_whole_checkpoint_or_none(
    new_store: Callable[[], ObjectStore], tmp_path: Path
) -> None:
    plan, _ = tiny_plan(tmp_path / "local")
    model = Decoder(MODEL, seed=plan.seed)
    state = TrainState(model=model, optimizer=build_optimizer(model, plan.optimizer), step=3)

    def save_to(store: ObjectStore) -> str:
        return save(store, plan, state, {}, tmp_path / "work")

    quiet = new_store()
    operations = count_operations(quiet, save_to)
    saved = latest(quiet, plan.checkpoint_prefix)
    assert saved is not None
    keys = [info.key for info in quiet.list(saved)]
    found: list[str | None] = []
    for point in kill_points(operations):
        store = new_store()
        end = run_killed(lambda s=store, p=point: save_to(KillingObjects(s, **p)))
        assert end.killed, f"{point}: {end}"
        found.append(latest(store, plan.checkpoint_prefix))
        save_to(store)
        assert tensors_of(store, saved) == tensors_of(quiet, saved)
        assert [info.key for info in store.list(saved)] == keys
    assert set(found) == {None, saved}


def test_a_kill_at_any_request_of_an_upload_leaves_no_half_object(
    new_store: Callable[[], ObjectStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.s3_transfer.PART_BYTES", 5 << 20)
    large = tmp_path / "large"
    large.write_bytes(bytes(range(256)) * (11 << 12))
    run, num_requests = Bucket.run, 5
    left: list[int] = []
    for number in range(1, num_requests + 1):
        store = new_store()
        end = run_killed(lambda s=store, n=number: _put_and_die(s, large, run, n))
        assert end.killed, end
        assert not store.exists("deep/large")
        left.append(len(list(store.list_uploads("deep"))))
        store.put_file("deep/large", large)
        store.get_file("deep/large", tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == large.read_bytes()
        assert store.abort_uploads("deep", older_than=9e12) == left[-1]
        assert list(store.list_uploads("deep")) == []
    assert left == [0, 1, 1, 1, 1]


def _put_and_die(store: ObjectStore, path: Path, run: Callable[..., Any], number: int) -> None:
    """Begin, three parts, end: die before the one of this number."""
    numbers, lock = count(1), threading.Lock()

    def dying(*arguments: Any) -> Any:
        with lock:
            if next(numbers) == number:
                os.kill(os.getpid(), signal.SIGKILL)
        return run(*arguments)

    with mock.patch.object(Bucket, "run", dying):
        store.put_file("deep/large", path)
