"""How the tensors of several models become one: pure functions of one tensor of each parent.

A rule is given the name of a tensor and that tensor of every parent, in the order of the parents,
and returns the merged one. Linear rules are computed in float64, block by block, and rounded once,
to the precision of the first parent.
"""

import math
from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from training.merge.names import depth_of

Rule = Callable[[str, Sequence[Tensor]], Tensor]

_BLOCK = 1 << 18
"""Numbers of a tensor that are in memory in float64 at a time, of each parent."""


def interpolation(weight: float) -> Rule:
    """``(1 - weight) * first + weight * second`` (Wortsman et al. 2021, arXiv:2109.01903).

    0 is the first parent and 1 the second, bit for bit, where both have one precision.
    """
    return lambda _, parents: _between(parents[0], parents[1], weight)


def layerwise_interpolation(bottom: float, top: float, names: Collection[str]) -> Rule:
    """``interpolation`` whose weight goes evenly from the first layer's to the last layer's.

    What lies before the layers has the first one's weight, what lies behind them the last one's.
    ``names`` are all tensors of the model.
    """

    def rule(name: str, parents: Sequence[Tensor]) -> Tensor:
        weight = bottom + (top - bottom) * depth_of(name, names)
        return _between(parents[0], parents[1], weight)

    return rule


def task_arithmetic(scales: Sequence[float]) -> Rule:
    """``first + sum of scale * (one end - its start)`` (Ilharco et al. 2023, arXiv:2212.04089).

    The parents are the model to change, then a start and an end for every scale. The order of the
    pairs does not matter.
    """

    def rule(_: str, parents: Sequence[Tensor]) -> Tensor:
        return _in_blocks(lambda base, *ends: base + _weighted_sum(ends, scales), parents)

    return rule


def breadcrumbs(scales: Sequence[float], *, beta: float, gamma: float) -> Rule:
    """``task_arithmetic`` without the smallest and the largest changes of every tensor.

    (Davari and Belilovsky 2024, arXiv:2312.06795.) Of ``n`` numbers the ``floor(beta n)`` least
    and the ``floor(gamma n)`` most changed keep the first parent's value. Vectors (norms, biases)
    are not masked.
    """

    def rule(_: str, parents: Sequence[Tensor]) -> Tensor:
        base, ends = parents[0], list(parents[1:])
        for index in range(0, len(ends), 2):
            start, end = ends[index], ends[index + 1]
            if base.ndim > 1:
                kept = kept_crumbs(end.float() - start.float(), beta=beta, gamma=gamma)
                ends[index + 1] = torch.where(kept, end, start)
        return _in_blocks(lambda base, *ends: base + _weighted_sum(ends, scales), [base, *ends])

    return rule


def kept_crumbs(delta: Tensor, *, beta: float, gamma: float) -> Tensor:
    """Which of the n entries of a change stay: exactly n - floor(beta n) - floor(gamma n).

    A bool tensor of its shape. Of equal ones the first go with the small and the last with the
    large, so the counts are exact whatever repeats, also with ``gamma`` 0.

    Raises:
        ValueError: The shares are not within 0 to 1, or together above it.
    """
    if min(beta, gamma) < 0 or beta + gamma > 1:
        raise ValueError(
            f"beta and gamma are shares that are left out, at least 0 and at most 1 together, got "
            f"beta {beta:g} and gamma {gamma:g}"
        )
    size = delta.reshape(-1).abs()
    low, high = math.floor(beta * size.numel()), math.floor(gamma * size.numel())
    kept = torch.ones_like(size, dtype=torch.bool)
    if low:
        edge = torch.kthvalue(size, low).values
        below = size < edge
        ties = (size == edge).nonzero().reshape(-1)
        kept[below] = False
        kept[ties[: low - int(below.sum())]] = False
    if high:
        edge = torch.kthvalue(size, size.numel() - high + 1).values
        above = size > edge
        ties = (size == edge).nonzero().reshape(-1)
        kept[above] = False
        kept[ties[ties.numel() - (high - int(above.sum())) :]] = False
    return kept.reshape(delta.shape)


def half_reset(taken: Collection[str]) -> Rule:
    """The second parent's tensors of the names ``taken``, the first one's of all others.

    Half Fine-Tuning's mask after the fact (Hui et al. 2024, arXiv:2404.18466); which names are
    taken says ``training.merge.names.half_of_modules``.
    """
    return lambda name, parents: parents[1 if name in taken else 0].clone()


def _between(first: Tensor, second: Tensor, weight: float) -> Tensor:
    if weight in (0.0, 1.0):
        return (second if weight else first).to(first.dtype, copy=True)
    return _in_blocks(lambda a, b: (1 - weight) * a + weight * b, [first, second])


def _weighted_sum(ends: Sequence[Tensor], scales: Sequence[float]) -> Tensor:
    """Sum of scale * (end - start) over pairs; sorted first, so the same bits in any order."""
    changes = [
        scale * (end - start)
        for scale, start, end in zip(scales, ends[::2], ends[1::2], strict=True)
    ]
    return torch.stack(changes).sort(dim=0).values.sum(dim=0)


def _in_blocks(function: Callable[..., Tensor], parents: Sequence[Tensor]) -> Tensor:
    """``function`` of the parents' numbers in float64, in the first one's precision and shape."""
    flat = [parent.reshape(-1) for parent in parents]
    merged = torch.empty_like(flat[0])
    for start in range(0, merged.numel(), _BLOCK):
        block = slice(start, start + _BLOCK)
        merged[block] = function(*(parent[block].double() for parent in flat))
    return merged.reshape(parents[0].shape)
