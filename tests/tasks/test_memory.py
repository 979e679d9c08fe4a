"""The line that tells how much memory a plan needs."""

from pathlib import Path

from tasks.memory import describe_memory
from tasks.train import ComputeConfig
from tests.training.tiny_run import tiny_plan
from training.parallel.config import ParallelConfig


def test_the_line_says_how_and_on_how_many_workers(tmp_path: Path) -> None:
    plan, _ = tiny_plan(tmp_path)
    settled = ParallelConfig(strategy="fsdp", activation_checkpointing="full")

    line = describe_memory(plan, ComputeConfig(num_workers=(2, 4), parallel=settled))

    assert line.startswith("memory: about 0.73 GiB a worker (")
    assert line.endswith("; fsdp, activation checkpointing full on 2 workers")


def test_what_is_left_to_the_workers_is_said(tmp_path: Path) -> None:
    plan, _ = tiny_plan(tmp_path)

    line = describe_memory(plan, ComputeConfig(num_workers=0))

    assert "; ddp, activation checkpointing none on 1 workers; where that is too much" in line


def test_workers_that_cannot_share_a_batch_do_not_keep_the_plan_from_being_shown(
    tmp_path: Path,
) -> None:
    plan, _ = tiny_plan(tmp_path)

    assert "3 workers cannot share" in describe_memory(plan, ComputeConfig(num_workers=3))
