"""No false alarm whatever the gradients are, and a flipped bit is found."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.training.tiny_run import free_port
from training.config import OptimizerConfig
from training.guard.weight_check import WeightCheck, checksum_of, largest_update, norms_of
from training.optim import build_optimizer

CONFIG = OptimizerConfig()


def flip(weight: torch.Tensor, index: int, bit: int) -> None:
    """Turn one bit of one float32 round; bits 23 to 30 are the exponent."""
    bits = weight.detach().view(-1).view(torch.int32)
    bits[index] ^= 1 << bit


@pytest.mark.parametrize(
    ("betas", "known"), [((0.9, 0.95), 1.16496), ((0.9, 0.999), 7.27013), ((0.0, 0.0), 1.0)]
)
def test_the_largest_update_is_what_the_bound_says(
    betas: tuple[float, float], known: float
) -> None:
    assert largest_update(*betas) == pytest.approx(known, rel=1e-5)


@given(
    gradients=st.lists(st.floats(-1e3, 1e3).filter(lambda g: abs(g) > 1e-3), min_size=1),
    betas=st.sampled_from([(0.9, 0.95), (0.9, 0.999), (0.8, 0.7), (0.0, 0.9)]),
)
def test_no_gradients_move_a_weight_further(
    gradients: list[float], betas: tuple[float, float]
) -> None:
    m = v = 0.0
    for t, gradient in enumerate(gradients, 1):
        m = betas[0] * m + (1 - betas[0]) * gradient
        v = betas[1] * v + (1 - betas[1]) * gradient**2
        moved = abs(m / (1 - betas[0] ** t)) / np.sqrt(v / (1 - betas[1] ** t))
        assert moved <= largest_update(*betas) * (1 + 1e-9)


def test_training_never_looks_corrupt_however_wild_its_gradients() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3))
    optimizer = build_optimizer(model, CONFIG)
    check = WeightCheck(model, CONFIG)
    for step in range(120):
        lr = 0.3 if step % 7 else 1e-4
        for weight in model.parameters():
            weight.grad = torch.randn_like(weight) * 10.0 ** (step % 9 - 4)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        check.add_step(lr)
        if step % 10 == 9:
            norms, finding = check.look()
            assert finding == ""
            flat = torch.cat([weight.detach().flatten() for weight in model.parameters()])
            assert norms.total == pytest.approx(float(flat.norm()), rel=1e-6)


@pytest.mark.parametrize("bit", [25, 30])
def test_an_exponent_bit_that_makes_a_weight_the_largest_is_found_and_named(bit: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64, bias=False))
    weight = model.get_parameter("0.weight")
    with torch.no_grad():
        weight.mul_(0.2)
        weight.view(-1)[77] = 0.02
    check = WeightCheck(model, CONFIG)
    for _ in range(10):
        check.add_step(1e-3)
    flip(weight, 77, bit)
    assert weight.isfinite().all()
    assert check.look()[1] == "the weights of 0.weight on rank 0"
    flip(weight, 77, bit)
    assert check.look()[1] == ""


@given(
    shape=st.sampled_from([(1,), (3,), (4, 5), (7, 3), (2, 8)]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    data=st.data(),
)
def test_the_sum_over_bits_changes_with_every_single_bit(
    shape: tuple[int, ...], dtype: torch.dtype, data: st.DataObject
) -> None:
    torch.manual_seed(1)
    weight = torch.randn(shape).to(dtype)
    before = checksum_of(weight)
    raw = weight.view(-1).view(torch.uint8)
    raw[data.draw(st.integers(0, raw.numel() - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert checksum_of(weight) != before


def test_norms_are_those_of_the_tensors() -> None:
    weights = [torch.tensor([[3.0, -4.0]]), torch.tensor([-2.0])]
    norms = norms_of(weights)
    assert (norms.largest, norms.euclidean) == ([4.0, 2.0], [5.0, 2.0])
    assert norms.total == pytest.approx(29**0.5)


def _replica(rank: int, port: int, out: Path) -> None:
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=3)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 1))
    check = WeightCheck(model, CONFIG, num_copies=3)
    sound = copy.deepcopy(model.state_dict())
    findings = [check.look()[1]]
    if rank == 2:
        # A bit too small for any norm.
        flip(model.get_parameter("1.weight"), 4, 0)
    findings.append(check.look()[1])
    model.load_state_dict(sound)
    findings.append(check.look()[1])
    if rank == 1:
        flip(model.get_parameter("0.bias"), 1, 30)
    findings.append(check.look()[1])
    out.joinpath(f"{rank}.txt").write_text("\n".join(findings))
    dist.destroy_process_group()


def test_a_replica_that_differs_in_one_bit_is_named_on_every_rank(tmp_path: Path) -> None:
    mp.start_processes(_replica, (free_port(), tmp_path), nprocs=3, start_method="fork")  # type: ignore[no-untyped-call]
    for rank in range(3):
        assert tmp_path.joinpath(f"{rank}.txt").read_text().split("\n") == [
            "",
            "the weights of 1.weight on rank 2, which differ from the other replicas'",
            "",
            "the weights of 0.bias on rank 1",
        ]
