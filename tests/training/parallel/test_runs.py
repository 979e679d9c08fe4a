"""Whole runs of models in pieces: the same losses, bits kept over a kill, any checkpoint read."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch

from storage.objects import open_store
from tests.training.local_ranks import on_ranks, run_ranks
from tests.training.tiny_run import LAYOUT, MODEL, tensors_of, tiny_plan, with_steps
from training.checkpoint.index import committed_steps, step_prefix
from training.config import ModelConfig, TrainPlan
from training.decoder.model import Decoder
from training.decoder.sharding import local_of
from training.guard.skips import read_skips
from training.hub.directory import write_model
from training.metrics import CHECKSUM, GRAD_NORM, LOSS, read_metrics
from training.parallel.config import ParallelConfig
from training.worker import run_worker

NUM_STEPS = 6
FSDP = ParallelConfig(strategy="fsdp")


def plan_in(root: Path) -> tuple[TrainPlan, str]:
    """Two rows a micro batch of two and more: gradients are added up before they are exchanged."""
    plan, uri = tiny_plan(root, num_steps=NUM_STEPS)
    model = replace(MODEL, num_kv_heads=2, num_layers=2, tie_embeddings=False)
    return replace(plan, model=model, global_batch_samples=12, micro_batch_size=2), uri


def rows_of(uri: str, plan: TrainPlan) -> list[dict[str, float]]:
    return read_metrics(open_store(uri), LAYOUT.metrics(plan.update))


def final_of(uri: str, plan: TrainPlan) -> tuple[str, str]:
    return tensors_of(open_store(uri), step_prefix(plan.checkpoint_prefix, plan.num_steps))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, float]]:
    """The run of one worker."""
    root = tmp_path_factory.mktemp("alone")
    plan, uri = plan_in(root / "store")
    torch.set_num_threads(1)
    run_worker(plan, uri, work_dir=root / "work")
    return rows_of(uri, plan)


def check_same_run(rows: list[dict[str, float]], alone: list[dict[str, float]]) -> None:
    """The same samples in every step, and in fp32 the same losses but for rounding."""
    assert [row[CHECKSUM] for row in rows] == [row[CHECKSUM] for row in alone]
    assert [row[LOSS] for row in rows] == pytest.approx([row[LOSS] for row in alone], abs=1e-5)
    expected = [row[GRAD_NORM] for row in alone]
    assert [row[GRAD_NORM] for row in rows] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("world_size", "fields"),
    [
        (2, {"strategy": "ddp"}),
        (3, {"strategy": "fsdp", "activation_checkpointing": "selective"}),
        (4, {"strategy": "hsdp", "shard_workers": 2}),
        (2, {"strategy": "ddp", "tensor_parallel": 2, "activation_checkpointing": "full"}),
        (4, {"strategy": "fsdp", "tensor_parallel": 2}),
    ],
)
def test_however_it_is_spread_a_run_has_the_losses_of_one_worker(
    tmp_path: Path,
    alone: list[dict[str, float]],
    world_size: int,
    fields: dict[str, object],
) -> None:
    plan, uri = plan_in(tmp_path / "store")
    parallel = ParallelConfig(**fields)  # type: ignore[arg-type]
    run_ranks(plan, uri, tmp_path / "work", world_size=world_size, parallel=parallel)
    check_same_run(rows_of(uri, plan), alone)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Bits of the end of a sharded run."""
    root = tmp_path_factory.mktemp("sharded")
    plan, uri = plan_in(root / "store")
    run_ranks(plan, uri, root / "work", world_size=2, parallel=FSDP)
    return final_of(uri, plan)


def test_a_sharded_run_that_is_stopped_ends_with_the_bits_of_an_undisturbed_one(
    tmp_path: Path, undisturbed: tuple[str, str]
) -> None:
    plan, uri = plan_in(tmp_path / "store")
    for stop_at in (2, 5, None):
        run_ranks(plan, uri, tmp_path / "work", world_size=2, stop_at=stop_at, parallel=FSDP)
    assert final_of(uri, plan) == undisturbed


def test_a_checkpoint_is_read_by_any_number_of_workers_spread_in_any_way(
    tmp_path: Path, alone: list[dict[str, float]]
) -> None:
    plan, uri = plan_in(tmp_path / "store")
    plan = replace(plan, checkpoint_every_steps=1)
    lives = [
        (2, FSDP, 3),
        (3, ParallelConfig(strategy="ddp"), 4),
        (2, ParallelConfig(strategy="ddp", tensor_parallel=2), 5),
        (3, FSDP, 6),
    ]
    for world_size, parallel, stop_at in lives:
        run_ranks(
            plan,
            uri,
            tmp_path / "work",
            world_size=world_size,
            stop_at=stop_at,
            parallel=parallel,
        )
        assert max(committed_steps(open_store(uri), plan.checkpoint_prefix)) == stop_at - 1
    run_worker(plan, uri, work_dir=tmp_path / "work")
    check_same_run(rows_of(uri, plan), alone)


def test_a_damaged_checkpoint_is_passed_over_by_all_who_share_a_model(
    tmp_path: Path, undisturbed: tuple[str, str]
) -> None:
    plan, uri = plan_in(tmp_path / "store")
    plan = replace(plan, checkpoint_every_steps=1)
    run_ranks(plan, uri, tmp_path / "work", world_size=2, stop_at=6, parallel=FSDP)
    store = open_store(uri)
    newest = step_prefix(plan.checkpoint_prefix, 5)
    (key,) = [info.key for info in store.list(newest) if "optimizer" in info.key]
    path = store.local_path(key)
    assert path is not None
    body = bytearray(path.read_bytes())
    body[-3] ^= 1
    path.unlink()
    path.write_bytes(body)
    run_ranks(plan, uri, tmp_path / "work", world_size=2, parallel=FSDP)
    assert final_of(uri, plan) == undisturbed


def test_a_flipped_bit_of_a_shard_is_undone_by_going_back(
    tmp_path: Path, undisturbed: tuple[str, str]
) -> None:
    plan, uri = plan_in(tmp_path / "store")
    on_ranks(2, _train_with_a_flip, plan, uri, tmp_path / "work")
    assert [skip.reason for skip in read_skips(open_store(uri), plan).recorded] == ["corruption"]
    assert final_of(uri, plan) == undisturbed


def _train_with_a_flip(rank: int, plan: TrainPlan, uri: str, work_dir: Path) -> None:
    models: list[torch.nn.Module] = []
    asked = iter(range(100))

    def flip_before_step_5() -> bool:
        if next(asked) == 4 and rank == 1:
            shard = local_of(next(models[0].parameters()).detach())
            shard.view(torch.int32)[0, 0] ^= 1 << 30
        return False

    run_worker(
        plan,
        uri,
        work_dir=work_dir,
        rank=rank,
        world_size=2,
        on_ready=lambda model, *_: models.append(model),
        is_asked_to_stop=flip_before_step_5,
        parallel=FSDP,
    )


@pytest.mark.parametrize("moments", ["keep", "reset"])
def test_an_update_of_a_shared_model_starts_from_a_trunk(
    tmp_path: Path, moments: Literal["keep", "reset"]
) -> None:
    plan, uri = plan_in(tmp_path / "store")
    run_worker(with_steps(plan, 2), uri, work_dir=tmp_path / "work")
    trunk = step_prefix(plan.checkpoint_prefix, 2)
    optimizer = replace(plan.optimizer, moments=moments)
    following = replace(plan, initial=trunk, optimizer=optimizer, num_steps=3, trunk_step=3)
    check_second_update(following, uri, tmp_path)


def test_a_shared_model_starts_from_a_hugging_face_directory(tmp_path: Path) -> None:
    plan, uri = plan_in(tmp_path / "store")
    assert isinstance(plan.model, ModelConfig)
    weights = Decoder(plan.model, seed=11).state_dict()
    write_model(tmp_path / "hub", plan.model, weights, start_id=0, end_id=0)
    for path in (tmp_path / "hub").iterdir():
        open_store(uri).put_file(f"imported/{path.name}", path)
    following = replace(plan, initial="imported", num_steps=3, trunk_step=3)
    check_second_update(following, uri, tmp_path)


def check_second_update(plan: TrainPlan, uri: str, folder: Path) -> None:
    """It has the same losses on one worker and on two that share the model."""
    losses: list[list[float]] = []
    for name, world_size in (("one", 1), ("two", 2)):
        own = replace(plan, update=name, checkpoint_prefix=LAYOUT.checkpoints(name))
        if world_size == 1:
            run_worker(own, uri, work_dir=folder / name)
        else:
            run_ranks(own, uri, folder / name, world_size=world_size, parallel=FSDP)
        losses.append([row[LOSS] for row in rows_of(uri, own)])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
