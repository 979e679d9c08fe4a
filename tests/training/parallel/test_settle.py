"""What ``auto`` comes to is the same on every rank, by the least memory that one of them has."""

from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import torch

from tests.training.local_ranks import on_ranks
from tests.training.tiny_run import tiny_plan
from training.config import TrainPlan
from training.decoder.config import ModelConfig
from training.parallel.config import ParallelConfig
from training.parallel.memory import GIB
from training.parallel.settle import (
    _bytes_per_worker,  # pyright: ignore[reportPrivateUsage]
    settled,
)

CPU = torch.device("cpu")
ROOM = "training.parallel.settle._bytes_per_worker"


def large(plan: TrainPlan) -> TrainPlan:
    """A plan whose weights, gradients and moments alone are 16 GiB."""
    model = ModelConfig(
        vocab_size=32_768,
        hidden_size=2048,
        num_layers=20,
        num_heads=16,
        num_kv_heads=16,
        intermediate_size=5632,
    )
    return replace(plan, model=model)


def test_a_rank_with_less_memory_decides_for_all(tmp_path: Path) -> None:
    on_ranks(2, _check_choice, large(tiny_plan(tmp_path)[0]))


def _check_choice(rank: int, plan: TrainPlan) -> None:
    auto = ParallelConfig()
    for room_of_1, strategy in ((64, "ddp"), (28, "fsdp")):
        room = (64, room_of_1)[rank] * GIB
        with mock.patch(ROOM, return_value=room):
            assert settled(plan, auto, num_workers=2, device=CPU).strategy == strategy


def test_what_is_settled_already_is_not_held_up_by_an_estimate(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan = large(tiny_plan(tmp_path)[0])
    wished = ParallelConfig(strategy="ddp", activation_checkpointing="none")
    with mock.patch(ROOM, return_value=1), caplog.at_level("INFO"):
        assert settled(plan, wished, num_workers=1, device=CPU) is wished
    assert "strategy ddp, activation checkpointing none: about " in caplog.text


def test_a_worker_has_its_share_of_its_machine() -> None:
    whole = _bytes_per_worker(CPU)
    assert GIB / 4 < whole < 2**50
