"""Blocks that torch compiles: the same run. Needs a C++ compiler, as ``compile: true`` does."""

from pathlib import Path

import pytest
import torch

from storage.objects import open_store
from tests.training.tiny_run import LAYOUT, tensors_of, tiny_plan
from training.checkpoint.index import step_prefix
from training.config import TrainPlan
from training.metrics import CHECKSUM, LOSS, read_metrics
from training.parallel.config import ParallelConfig
from training.worker import never, run_worker

pytestmark = [
    pytest.mark.integration,
    # torch's compiler warns of torch.
    pytest.mark.filterwarnings("default"),
]
NUM_STEPS = 6


def _run(plan: TrainPlan, uri: str, work_dir: Path, *, compiled: bool, num_steps: int) -> None:
    """Up to ``num_steps`` steps of a life."""
    seen = 0

    def is_asked_to_stop() -> bool:
        nonlocal seen
        seen += 1
        return seen >= num_steps

    torch.set_num_threads(1)
    run_worker(
        plan,
        uri,
        work_dir=work_dir,
        is_asked_to_stop=is_asked_to_stop if num_steps < plan.num_steps else never,
        parallel=ParallelConfig(compile=compiled),
    )


def _found(plan: TrainPlan, uri: str) -> tuple[list[float], list[float], tuple[str, str]]:
    """Samples and losses of the steps, and the final checkpoint."""
    store = open_store(uri)
    rows = read_metrics(store, LAYOUT.metrics(plan.update))
    final = tensors_of(store, step_prefix(plan.checkpoint_prefix, plan.num_steps))
    return [row[CHECKSUM] for row in rows], [row[LOSS] for row in rows], final


def test_a_compiled_run_has_the_losses_of_any_and_goes_on_with_its_bits(tmp_path: Path) -> None:
    found = {}
    for name, compiled, lives in (
        ("plain", False, (NUM_STEPS,)),
        ("compiled", True, (NUM_STEPS,)),
        ("stopped", True, (3, NUM_STEPS)),
    ):
        plan, uri = tiny_plan(tmp_path / name, num_steps=NUM_STEPS)
        for num_steps in lives:
            _run(plan, uri, tmp_path / f"{name}-work", compiled=compiled, num_steps=num_steps)
        found[name] = _found(plan, uri)

    assert found["compiled"][0] == found["plain"][0]
    assert found["compiled"][1] == pytest.approx(found["plain"][1], abs=1e-5)
    assert found["stopped"] == found["compiled"]
