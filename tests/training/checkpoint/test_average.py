"""Averages of checkpoints: the arithmetic, what is refused, and what a run keeps for them."""

import os
import signal
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor

from storage.errors import CorruptError, NotFoundError
from storage.local_objects import LocalObjects
from storage.manifest import publish
from storage.objects import ObjectStore
from tasks.model_export import load_trained
from tests.support.killing_store import run_killed
from tests.training.tiny_run import tensors_of, tiny_plan
from training.checkpoint.average import average_weights
from training.checkpoint.index import CheckpointManifest, Progress, committed_steps, step_prefix
from training.checkpoint.local import write_local
from training.checkpoint.restore import load_weights
from training.config import TrainPlan
from training.launch import run_training
from training.loop import lr_at
from training.release import Release


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def put(store: ObjectStore, folder: Path, step: int, weights: dict[str, Tensor]) -> str:
    """Store a checkpoint with these weights."""
    checkpoint = f"run/step-{step}"
    progress = Progress(step=step, tokens_seen={}, plan={})
    manifest: CheckpointManifest = write_local(folder / str(step), progress, weights, {})
    for file in manifest.files:
        store.put_file(f"{checkpoint}/{file.name}", folder / str(step) / file.name)
    publish(store, f"{checkpoint}/manifest.json", manifest)
    return checkpoint


def random_weights(seed: int) -> dict[str, Tensor]:
    """Several pieces of float32, other precisions, a scalar, an empty tensor, whole numbers."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "wide": torch.randn(2_200_000, generator=generator),
        "norm": torch.randn(7, generator=generator),
        "half": torch.randn(5, 3, generator=generator).bfloat16(),
        "exact": torch.randn(3, generator=generator).double(),
        "scalar": torch.randn((), generator=generator),
        "none": torch.empty(0, 4),
        "count": torch.tensor([seed, 2**53 + seed]),
    }


@pytest.mark.parametrize("release", [Release(kind="lawa"), Release(kind="ema", decay=0.2)])
def test_the_average_is_that_of_numpy(tmp_path: Path, release: Release) -> None:
    store = LocalObjects(tmp_path / "store")
    states = [random_weights(seed) for seed in range(3)]
    checkpoints = [put(store, tmp_path, step, state) for step, state in enumerate(states)]

    averaged = average_weights(store, checkpoints, release.shares(3))

    for name, tensor in averaged.items():
        points = [state[name] for state in states]
        assert (tensor.dtype, tensor.shape) == (points[0].dtype, points[0].shape)
        if not tensor.is_floating_point():
            assert torch.equal(tensor, points[-1]), name
            continue
        expected = points[0].double().numpy()
        if release.kind == "lawa":
            expected = np.mean([point.double().numpy() for point in points], axis=0)
        else:
            for point in points[1:]:
                expected = 0.2 * expected + 0.8 * point.double().numpy()
        tolerance = 1e-7 if tensor.dtype != torch.bfloat16 else 2**-8
        np.testing.assert_allclose(
            tensor.double().numpy(), expected, rtol=tolerance, atol=tolerance
        )


def test_the_mean_does_not_depend_on_the_order(tmp_path: Path) -> None:
    store = LocalObjects(tmp_path / "store")
    checkpoints = [put(store, tmp_path, step, random_weights(step)) for step in range(4)]

    forth = average_weights(store, checkpoints[:3], (1 / 3,) * 3)
    back = average_weights(store, [checkpoints[i] for i in (1, 0, 2)], (1 / 3,) * 3)

    for name, tensor in forth.items():
        torch.testing.assert_close(tensor, back[name], rtol=1e-7, atol=1e-7)


def test_an_altered_byte_of_any_checkpoint_is_found_and_named(tmp_path: Path) -> None:
    store = LocalObjects(tmp_path / "store")
    checkpoints = [put(store, tmp_path, step, random_weights(step)) for step in range(3)]
    key = next(info.key for info in store.list(checkpoints[1]) if "model-" in info.key)
    body = bytearray(store.get(key))
    body[-3] ^= 1
    store.put(key, bytes(body))

    with pytest.raises(CorruptError, match=r"step-1/model-.* was altered in tensor"):
        average_weights(store, checkpoints, (1 / 3,) * 3)


def test_checkpoints_of_another_model_are_refused(tmp_path: Path) -> None:
    store = LocalObjects(tmp_path / "store")
    one = put(store, tmp_path, 1, {"a": torch.zeros(3)})
    other = put(store, tmp_path, 2, {"a": torch.zeros(4)})

    with pytest.raises(CorruptError, match=r"step-1/.* does not have the tensors of .*step-2"):
        average_weights(store, [one, other], (0.5, 0.5))


def releasing(root: Path) -> tuple[TrainPlan, str]:
    """12 steps, a checkpoint every 3; the release averages steps 4, 8 and 12."""
    plan, uri = tiny_plan(root)
    return replace(plan, release=Release(kind="lawa", checkpoints=3, every_steps=4)), uri


def train_here(plan: TrainPlan, uri: str, work_dir: Path) -> str:
    return run_training(plan, store_uri=uri, num_workers=0, work_dir=work_dir, threads_per_worker=1)


def die_in(step: int, plan: TrainPlan, uri: str, work_dir: Path) -> None:
    """Train, and kill this process when step ``step`` begins."""

    def lr_or_die(tokens_seen: int, schedule: object) -> float:
        if tokens_seen == step * plan.global_batch_tokens:
            os.kill(os.getpid(), signal.SIGKILL)
        return lr_at(tokens_seen, plan.schedule)

    with mock.patch("training.loop.lr_at", lr_or_die):
        train_here(plan, uri, work_dir)


def test_a_run_keeps_what_its_release_averages_and_the_trunk_is_not_averaged(
    tmp_path: Path,
) -> None:
    plan, uri = releasing(tmp_path / "store")
    store = LocalObjects(tmp_path / "store")

    final = train_here(plan, uri, tmp_path / "work")

    assert {4, 8, 12} <= set(committed_steps(store, plan.checkpoint_prefix))
    assert 3 not in committed_steps(store, plan.checkpoint_prefix)
    points = [
        load_weights(store, step_prefix(plan.checkpoint_prefix, step), tmp_path)
        for step in (4, 8, 12)
    ]
    released = load_trained(store, final, plan, tmp_path / "export").state_dict()
    for name in points[0]:
        expected = torch.stack([point[name].double() for point in points]).mean(0)
        torch.testing.assert_close(released[name].double(), expected, rtol=1e-7, atol=1e-9)
        assert not torch.equal(released[name], points[-1][name])
    assert plan.trunk == final


def test_a_run_without_an_average_releases_its_last_checkpoint(tmp_path: Path) -> None:
    plan, uri = tiny_plan(tmp_path / "store")
    store = LocalObjects(tmp_path / "store")

    final = train_here(plan, uri, tmp_path / "work")

    released = load_trained(store, final, plan, tmp_path / "export").state_dict()
    for name, tensor in load_weights(store, final, tmp_path).items():
        assert torch.equal(released[name], tensor)


def test_a_killed_and_resumed_run_releases_the_same_bits(tmp_path: Path) -> None:
    released: list[dict[str, Tensor]] = []
    for name, deaths in (("whole", ()), ("killed", (6, 11))):
        plan, uri = releasing(tmp_path / name)
        store, work = LocalObjects(tmp_path / name), tmp_path / f"work-{name}"
        for step in deaths:
            assert run_killed(lambda: die_in(step, plan, uri, work)).killed  # noqa: B023
        final = train_here(plan, uri, work)
        released.append(load_trained(store, final, plan, work).state_dict())

    assert released[0].keys() == released[1].keys()
    for name, tensor in released[0].items():
        assert torch.equal(tensor, released[1][name]), name


def test_a_checkpoint_that_is_gone_is_named(tmp_path: Path) -> None:
    plan, uri = releasing(tmp_path / "store")
    store = LocalObjects(tmp_path / "store")
    final = train_here(plan, uri, tmp_path / "work")
    store.delete(f"{step_prefix(plan.checkpoint_prefix, 8)}/manifest.json")

    with pytest.raises(NotFoundError, match="step-8"):
        load_trained(store, final, plan, tmp_path / "export")


def test_the_moments_of_the_trunk_are_there_for_the_next_update(tmp_path: Path) -> None:
    plan, uri = releasing(tmp_path / "store")
    plain, plain_uri = tiny_plan(tmp_path / "plain")

    averaged = train_here(plan, uri, tmp_path / "work")
    unaveraged = train_here(plain, plain_uri, tmp_path / "work-plain")

    # Releasing an average changes nothing of what the next update continues from.
    assert tensors_of(LocalObjects(tmp_path / "store"), averaged) == tensors_of(
        LocalObjects(tmp_path / "plain"), unaveraged
    )
