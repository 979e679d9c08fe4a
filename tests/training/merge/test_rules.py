import math
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from training.merge.names import half_of_modules, layer_of
from training.merge.rules import (
    Rule,
    breadcrumbs,
    half_reset,
    interpolation,
    kept_crumbs,
    layerwise_interpolation,
    task_arithmetic,
)

NAME = "model.layers.0.mlp.up_proj.weight"
LAYERS = 4
NAMES = (
    "model.embed_tokens.weight",
    *(
        f"model.layers.{layer}.{module}.weight"
        for layer in range(LAYERS)
        for module in (
            "self_attn.q_proj",
            "self_attn.k_proj",
            "self_attn.v_proj",
            "self_attn.o_proj",
            "mlp.gate_proj",
            "mlp.up_proj",
            "mlp.down_proj",
            "input_layernorm",
            "post_attention_layernorm",
        )
    ),
    "model.norm.weight",
    "lm_head.weight",
)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def matrix(
    seed: int, dtype: torch.dtype = torch.float32, shape: tuple[int, ...] = (5, 7)
) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def arrays(*tensors: Tensor) -> list[np.ndarray]:
    return [tensor.double().numpy() for tensor in tensors]


def same_bits(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(
        one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8)
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "ends",
    [
        (interpolation(0.0), interpolation(1.0)),
        (layerwise_interpolation(0, 0, NAMES), layerwise_interpolation(1, 1, NAMES)),
        (half_reset(()), half_reset(NAMES)),
    ],
    ids=["interpolation", "layerwise", "half reset"],
)
def test_the_ends_are_the_parents_bit_for_bit(ends: tuple[Rule, Rule], dtype: torch.dtype) -> None:
    first, second = matrix(1, dtype), matrix(2, dtype)
    # Minus zero, and numbers so far apart that a + (b - a) is not b.
    first[0, 0], second[0, 0], second[0, 1] = -0.0, -0.0, 1e-4
    at_first, at_second = (rule(NAME, [first, second]) for rule in ends)
    assert same_bits(at_first, first)
    assert same_bits(at_second, second)


def test_no_change_scaled_by_anything_is_the_base_bit_for_bit() -> None:
    base, end = matrix(1), matrix(2)
    for rule in (task_arithmetic([0.0]), breadcrumbs([1.0], beta=1.0, gamma=0.0)):
        assert torch.equal(rule(NAME, [base, base, end]), base)
    assert torch.equal(task_arithmetic([0.7])(NAME, [base, end, end]), base)


@given(st.floats(0, 1), st.sampled_from(DTYPES))
def test_interpolation_is_what_numpy_makes_of_it(weight: float, dtype: torch.dtype) -> None:
    first, second = matrix(1, dtype), matrix(2, dtype)
    a, b = arrays(first, second)
    expected = torch.from_numpy((1 - weight) * a + weight * b).to(dtype)
    found = interpolation(weight)(NAME, [first, second])
    assert found.dtype == dtype
    # In float32 1e-7 of numbers of size 1; rounded once, so in the others the very same.
    assert (found.double() - expected.double()).abs().max() <= 1e-7


@given(st.lists(st.floats(-1, 1.5), min_size=1, max_size=4))
def test_task_arithmetic_is_what_numpy_makes_of_it(scales: list[float]) -> None:
    parents = [matrix(seed) for seed in range(1 + 2 * len(scales))]
    base, *ends = arrays(*parents)
    changes = [s * (b - a) for s, a, b in zip(scales, ends[::2], ends[1::2], strict=True)]
    expected = base + sum(changes)
    found = task_arithmetic(scales)(NAME, parents).double().numpy()
    # One rounding to float32, of numbers of a size of about 10.
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-7)


def test_one_task_from_the_champion_itself_is_interpolation() -> None:
    champion, candidate = matrix(1), matrix(2)
    merged = task_arithmetic([0.3])(NAME, [champion, champion, candidate])
    between = interpolation(0.3)(NAME, [champion, candidate])
    # Both are rounded once, from float64 sums of another order.
    torch.testing.assert_close(merged, between, rtol=2e-7, atol=0)


@pytest.mark.parametrize("rule", ["arithmetic", "crumbs"])
def test_the_order_of_tasks_does_not_matter(rule: str) -> None:
    base, *tasks = (matrix(seed, shape=(40, 50)) for seed in range(4))
    scales = [0.3, 0.7, 1.1]
    found: list[Tensor] = []
    for order in permutations(range(3)):
        mine = [scales[index] for index in order]
        made = (
            task_arithmetic(mine)
            if rule == "arithmetic"
            else breadcrumbs(mine, beta=0.5, gamma=0.01)
        )
        parents = [base, *(part for index in order for part in (base, tasks[index]))]
        found.append(made(NAME, parents))
    assert all(same_bits(merged, found[0]) for merged in found)


def test_breadcrumbs_are_what_numpy_makes_of_them() -> None:
    base, end = matrix(1, shape=(30, 40)), matrix(2, shape=(30, 40))
    delta = (end - base).numpy()
    order = np.argsort(np.abs(delta).ravel(), kind="stable")
    kept = np.zeros(delta.size, dtype=bool)
    kept[order[math.floor(0.6 * delta.size) : delta.size - math.floor(0.02 * delta.size)]] = True
    expected = base.double().numpy() + 0.4 * np.where(
        kept.reshape(delta.shape), arrays(end)[0] - arrays(base)[0], 0
    )
    found = breadcrumbs([0.4], beta=0.6, gamma=0.02)(NAME, [base, base, end]).double().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-7)


def test_breadcrumbs_without_a_mask_are_task_arithmetic_and_leave_vectors_whole() -> None:
    parents = [matrix(1), matrix(1), matrix(2)]
    plain = task_arithmetic([0.4])(NAME, parents)
    assert torch.equal(breadcrumbs([0.4], beta=0, gamma=0)(NAME, parents), plain)
    vectors = [parent[0] for parent in parents]
    whole = task_arithmetic([0.4])(NAME, vectors)
    assert torch.equal(breadcrumbs([0.4], beta=0.9, gamma=0.1)(NAME, vectors), whole)


@pytest.mark.parametrize(
    ("beta", "gamma"), [(0.85, 0.01), (0.5, 0.01), (0.85, 0.0), (0.0, 0.01), (0.0, 0.0), (1.0, 0.0)]
)
def test_the_crumbs_kept_are_exactly_as_many_as_said(beta: float, gamma: float) -> None:
    sizes = [*range(1, 300), *range(300, 10_001, 97), 10_000]
    distinct, repeating = torch.randperm(10_000).float(), (torch.arange(10_000) % 3).float()
    for n in sizes:
        expected = n - math.floor(beta * n) - math.floor(gamma * n)
        for delta in (distinct[:n], repeating[:n], torch.zeros(n)):
            assert int(kept_crumbs(delta, beta=beta, gamma=gamma).sum()) == expected


@given(st.integers(1, 10_000), st.floats(0, 1), st.floats(0, 1), st.integers(0, 2**20))
@settings(max_examples=200)
def test_crumbs_are_those_in_between(n: int, beta: float, gamma: float, seed: int) -> None:
    beta *= 1 - gamma
    delta = matrix(seed, shape=(n,)).round(decimals=1)
    kept = kept_crumbs(delta, beta=beta, gamma=gamma)
    assert int(kept.sum()) == n - math.floor(beta * n) - math.floor(gamma * n)
    size = delta.abs()
    ascending = size.sort().values
    low, high = math.floor(beta * n), math.floor(gamma * n)
    if kept.any():
        assert size[kept].min() >= ascending[low]
        assert size[kept].max() <= ascending[n - high - 1]


def test_shares_that_leave_less_than_nothing_are_refused() -> None:
    for beta, gamma in ((0.9, 0.2), (-0.1, 0.0)):
        with pytest.raises(ValueError, match=r"at most 1 together, got beta"):
            kept_crumbs(matrix(1), beta=beta, gamma=gamma)


def test_a_few_wild_changes_are_left_out_by_breadcrumbs() -> None:
    base, end = matrix(1, shape=(100, 100)), matrix(1, shape=(100, 100))
    end += 0.01 * matrix(2, shape=(100, 100))
    wild = torch.arange(0, 10_000, 200)
    end.view(-1)[wild] += 5
    merged = breadcrumbs([1.0], beta=0.0, gamma=0.01)(NAME, [base, base, end])
    assert (merged - base).abs().max() < 0.1
    assert (task_arithmetic([1.0])(NAME, [base, base, end]) - base).abs().max() > 4


def test_the_weight_rises_evenly_with_the_layers() -> None:
    first, second = torch.zeros(2, 2), torch.ones(2, 2)
    rule = layerwise_interpolation(0.2, 0.8, NAMES)
    weights = {
        name: float(rule(name, [first, second])[0, 0])
        for name in NAMES
        if "up_proj" in name or layer_of(name) is None
    }
    expected = [0.2, 0.2, 0.4, 0.6, 0.8, 0.8, 0.8]
    assert list(weights.values()) == pytest.approx(expected)
    assert list(weights) == [name for name in NAMES if name in weights]


@given(st.integers(0, 1000))
def test_half_of_every_kind_of_module_is_taken(seed: int) -> None:
    taken = half_of_modules(NAMES, seed)
    assert taken == half_of_modules(tuple(reversed(NAMES)), seed)
    forward = []
    for layer in range(LAYERS):
        mine = [name for name in taken if layer_of(name) == layer]
        assert sum("self_attn" in name for name in mine) == 2
        assert sum("layernorm" in name for name in mine) == 1
        forward.append(sum(".mlp." in name for name in mine))
    assert forward in ([1, 2, 1, 2], [2, 1, 2, 1])
    assert sum(name in taken for name in ("model.embed_tokens.weight", "lm_head.weight")) == 1


def test_another_seed_takes_another_half() -> None:
    assert len({half_of_modules(NAMES, seed) for seed in range(20)}) == 20


def test_weight_and_bias_of_a_module_go_together() -> None:
    names = [
        f"h.{layer}.attn.{part}"
        for layer in range(3)
        for part in ("a.weight", "a.bias", "b.weight", "b.bias")
    ]
    taken = half_of_modules(names, 1)
    assert {name.replace("bias", "weight") for name in taken} == {
        name for name in taken if name.endswith("weight")
    }
    assert len(taken) == 6
