"""Attention over short rows on processors that multiply bf16 in tiles (AMX).

torch has a good kernel for the forward pass. Its backward pass multiplies blocks too small for the
tiles: rows of 256 tokens take 40 % longer than with what is here, which is less exact nowhere.

Shapes: B rows, T positions, H query heads, K key and value heads, G = H / K queries of a key, D
width of a head.
"""

import contextlib
import math
from collections.abc import Generator
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from training.decoder.tiles import LONGEST_TILED_ROW, SCORES_AT_ONCE, has_tiles

_aten: Any = torch.ops.aten
_mkldnn: Any = torch.backends.mkldnn


def is_tiled(value: Tensor) -> bool:
    """Whether ``tiled_attention`` is for values ``[B, K, T, D]`` such as these."""
    return (
        value.device.type == "cpu"
        and value.dtype == torch.bfloat16
        and value.shape[2] <= LONGEST_TILED_ROW
        and has_tiles()
        and not torch.compiler.is_compiling()
    )


def tiled_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax attention, ``bf16[B, H, T, D]``.

    Args:
        query: ``float32[B, H, T, D]``, rotated.
        key: ``float32[B, K, T, D]``, rotated.
        value: ``bf16[B, K, T, D]``.
        mask: ``bool[B or 1, 1, T, T]``; None is plain causal attention.
    """
    return cast("Tensor", _TiledAttention.apply(query, key, value, mask))


class _TiledAttention(torch.autograd.Function):
    """What products read is bf16; sums, scores and the softmax are float32 in both passes."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        query, key = query.bfloat16(), key.bfloat16()
        bias = None if mask is None else _bias_of(mask, query.dtype)
        out, log_sums = _aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, is_causal=mask is None, attn_mask=bias
        )
        ctx.save_for_backward(query, key, value, mask, out, log_sums)
        return out

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  the decorator hides names
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, None]:
        with torch.autocast("cpu", enabled=False), _products_in_bf16():
            query, key, value = _gradients(ctx.saved_tensors, grad_outputs[0])
        return query, key, value.bfloat16(), None


def _gradients(
    saved: tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor, Tensor], grad_out: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Of query, key and value, float32 (Dao et al. 2022, arXiv:2205.14135, appendix B.2)."""
    query, key, value, mask, out, log_sums = saved
    num_rows, num_heads, length, _ = query.shape
    if mask is None:
        mask = torch.ones(1, 1, length, length, dtype=torch.bool).tril()
    mask = mask.expand(num_rows, -1, -1, -1)
    # Of each query, what the softmax takes from the gradients of all its scores.
    means = (grad_out.float() * out.float()).sum(-1)
    grads = tuple(torch.empty(x.shape, dtype=torch.float32) for x in (query, key, value))
    at_once = max(1, SCORES_AT_ONCE // (num_heads * length**2))
    for start in range(0, num_rows, at_once):
        part = slice(start, start + at_once)
        factors = [_by_key(x[part], key.shape[1]) for x in (query, key, value, grad_out)]
        bias = _bias_of(mask[part], torch.float32)
        found = _gradients_of_rows(factors, bias, log_sums[part], means[part])
        for grad, rows in zip(grads, found, strict=True):
            grad[part] = rows.view_as(grad[part])
    return cast("tuple[Tensor, Tensor, Tensor]", grads)


def _bias_of(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to scores: nothing, or minus infinity where the key is not seen."""
    return torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, -math.inf)


def _by_key(x: Tensor, num_keys: int) -> Tensor:
    """``float32[B * K, G * T, D]``: the queries of a key one after the other."""
    wide = x.to(torch.float32, memory_format=torch.contiguous_format)
    return wide.view(x.shape[0] * num_keys, -1, x.shape[-1])


def _gradients_of_rows(
    factors: list[Tensor], bias: Tensor, log_sums: Tensor, means: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """A few rows, laid out as ``_by_key`` does, whose scores stay in the processor's cache."""
    query, key, value, grad_out = factors
    scale = 1.0 / math.sqrt(query.shape[-1])
    per_query = (len(query), -1, 1)
    scores = torch.bmm(query, key.mT)
    of_head = scores.view(bias.shape[0], -1, *bias.shape[2:])
    # Before the exponential: what is not seen may be so large that its own is infinite.
    torch.add(bias, of_head, alpha=scale, out=of_head)
    weights = scores.sub_(log_sums.reshape(per_query)).exp_()
    grad_value = torch.bmm(weights.mT, grad_out)
    grad_scores = torch.bmm(grad_out, value.mT).sub_(means.reshape(per_query)).mul_(weights)
    grad_query = torch.bmm(grad_scores, key).mul_(scale)
    return grad_query, torch.bmm(grad_scores.mT, query).mul_(scale), grad_value


@contextlib.contextmanager
def _products_in_bf16() -> Generator[None]:
    """Products of float32 round what they read to bf16, and nothing else."""
    products = _mkldnn.matmul
    before = products.fp32_precision
    products.fp32_precision = "bf16"
    try:
        yield
    finally:
        products.fp32_precision = before
