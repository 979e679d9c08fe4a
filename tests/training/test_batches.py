"""Batches: cut by rank and micro batch, read ahead by one step, closed without a trace."""

import threading
from pathlib import Path

import pytest
import torch

from storage.objects import open_store
from tests.training.tiny_run import tiny_plan
from training.batches import Batches
from training.order import Order
from training.worker import open_streams


@pytest.fixture
def batches(tmp_path: Path) -> Batches:
    plan, uri = tiny_plan(tmp_path)
    shards = open_streams(open_store(uri), plan, tmp_path / "cache")
    return Batches(Order(plan.mixture, 8), shards, micro_batch_size=3)


def test_the_last_micro_batch_may_be_shorter(batches: Batches) -> None:
    batch = batches.read(0)
    assert [tuple(tokens.shape) for tokens in batch.tokens] == [(3, 17), (3, 17), (2, 17)]
    assert [len(streams) for streams in batch.streams] == [3, 3, 2]
    assert batch.tokens[0].dtype == torch.int64
    assert torch.cat(batch.streams).tolist() == [stream for stream, _ in batch.samples]


def test_read_ahead_gives_the_same_batches_in_order(batches: Batches) -> None:
    ahead = list(batches.iterate(3, 7))
    assert [batch.step for batch in ahead] == [3, 4, 5, 6]
    for batch in ahead:
        plain = batches.read(batch.step)
        assert batch.samples == plain.samples
        assert batch.checksum == plain.checksum
        assert torch.equal(torch.cat(batch.tokens), torch.cat(plain.tokens))
        assert batch.wait_seconds >= 0
    assert list(batches.iterate(7, 7)) == []


def test_closing_early_ends_the_thread(batches: Batches) -> None:
    coming = batches.iterate(0, 100)
    next(coming)
    assert any(thread.name.startswith("batches") for thread in threading.enumerate())
    coming.close()
    assert not any(thread.name.startswith("batches") for thread in threading.enumerate())


def test_workers_that_cannot_share_a_batch_are_refused(batches: Batches, tmp_path: Path) -> None:
    plan, _ = tiny_plan(tmp_path)
    with pytest.raises(ValueError, match="3 workers cannot share the 8 samples"):
        Batches(Order(plan.mixture, 8), [], micro_batch_size=3, world_size=3)
