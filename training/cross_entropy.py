"""Cross entropy of the output layer, in nats, without ever holding the logits of a whole batch.

The logits are by far the largest activation of a small model or a large vocabulary. They are
computed for a chunk of rows at a time, see ``training.chunks``, in memory that all chunks share;
their derivative takes their place, and what is float32 of them is a few rows that stay in the
processor's cache.

Shapes: N predictions, C width of the hidden states, V vocabulary.
"""

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from training.chunks import rows_in_float32, rows_per_chunk

IGNORE_INDEX = -100
"""Target that teaches nothing; its prediction counts neither in the loss nor in the gradient."""


def summed_nats(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of -log p(target), with gradients for ``hidden`` and ``weight``, and its terms, without.

    Args:
        hidden: ``[N, C]``, the final hidden states.
        weight: ``[V, C]``, the output layer. Multiplied in the precision of autocast where that is
            on.
        targets: ``int64[N]``; ``IGNORE_INDEX`` is left out.

    Returns:
        The sum, a float32 scalar, and the nats of each prediction, ``float32[N]``.
    """
    return cast("tuple[Tensor, Tensor]", _SummedNats.apply(hidden, weight, targets))


@torch.no_grad()
def nats_of_targets(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """-log p(target) of each prediction, ``float32[N]``, 0 where it is ``IGNORE_INDEX``.

    Arguments as of ``summed_nats``; without gradients.
    """
    nats = torch.empty(targets.shape, dtype=torch.float32, device=hidden.device)
    for hidden_NC, weight_VC, rows, logits_NV in chunks_of(hidden, weight):
        torch.mm(hidden_NC[rows], weight_VC.T, out=logits_NV)
        nats[rows] = nats_of_logits(logits_NV, targets[rows])
    return nats


def summed_nats_of_logits(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """``summed_nats`` for logits ``[N, V]`` that exist already, with gradients for them."""
    return cast("tuple[Tensor, Tensor]", _SummedNatsOfLogits.apply(logits, targets))


@torch.no_grad()
def nats_of_logits(logits: Tensor, targets: Tensor) -> Tensor:
    """``nats_of_targets`` for logits ``[N, V]`` that exist already."""
    nats = torch.empty(targets.shape, dtype=torch.float32, device=logits.device)
    for rows in float32_slices(logits):
        nats[rows] = _probs_and_nats(logits[rows], targets[rows])[1]
    return nats


class _SummedNatsOfLogits(torch.autograd.Function):
    """The gradient is kept in the precision of the logits."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        grad = torch.empty_like(logits)
        nats = _differentiated(logits, targets, into=grad)
        ctx.save_for_backward(grad, targets)
        ctx.mark_non_differentiable(nats)
        return nats.sum(), nats

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  the decorator hides names
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor, None]:
        grad, targets = ctx.saved_tensors
        return grad.mul_(_scale_of_rows(grad_outputs[0], targets).to(grad.dtype)), None


class _SummedNats(torch.autograd.Function):
    """The gradient is computed with the loss, while the logits are at hand."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        nats = torch.empty(targets.shape, dtype=torch.float32, device=hidden.device)
        grad_hidden = torch.empty_like(hidden)
        grad_weight = None
        for hidden_NC, weight_VC, rows, logits_NV in chunks_of(hidden, weight):
            torch.mm(hidden_NC[rows], weight_VC.T, out=logits_NV)
            nats[rows] = _differentiated(logits_NV, targets[rows], into=logits_NV)
            grad_hidden[rows] = logits_NV @ weight_VC
            # A row without a target teaches nothing; left out here it is C numbers, not V.
            teaching_NC = hidden_NC[rows] * (targets[rows] != IGNORE_INDEX)[:, None]
            of_chunk = logits_NV.T @ teaching_NC
            grad_weight = of_chunk.float() if grad_weight is None else grad_weight.add_(of_chunk)
        assert grad_weight is not None
        ctx.save_for_backward(grad_hidden, grad_weight.to(weight.dtype), targets)
        ctx.mark_non_differentiable(nats)
        return nats.sum(), nats

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  the decorator hides names
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor, Tensor, None]:
        grad_hidden, grad_weight, targets = ctx.saved_tensors
        scale = grad_outputs[0]
        # In place: torch refuses a second backward pass over what has changed since.
        return grad_hidden.mul_(_scale_of_rows(scale, targets)), grad_weight.mul_(scale), None


def _scale_of_rows(scale: Tensor, targets_N: Tensor) -> Tensor:
    """``scale``, or 0 where there is no target, ``[N, 1]``."""
    return (scale * (targets_N != IGNORE_INDEX))[:, None]


def chunks_of(hidden: Tensor, weight: Tensor) -> Iterator[tuple[Tensor, Tensor, slice, Tensor]]:
    """Both matrices in the precision to multiply in, slices over rows, and room for their logits.

    All chunks have the same room.
    """
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
    num_rows, vocab_size = hidden.shape[0], weight.shape[0]
    length = min(num_rows, rows_per_chunk(vocab_size, device))
    room = hidden.new_empty(length, vocab_size)
    for rows in _slices(num_rows, length):
        yield hidden, weight, rows, room[: rows.stop - rows.start]


def float32_slices(logits: Tensor) -> Iterator[slice]:
    """Slices over the rows of ``logits``, to be float32 one after the other."""
    return _slices(logits.shape[0], rows_in_float32(logits.shape[1], logits.device.type))


def _slices(num_rows: int, length: int) -> Iterator[slice]:
    for start in range(0, num_rows, length):
        yield slice(start, min(start + length, num_rows))


def _differentiated(logits_NV: Tensor, targets_N: Tensor, *, into: Tensor) -> Tensor:
    """The nats of the targets; the derivative of their sum goes ``into`` other or the same memory.

    Of a row without a target it is anything: the caller leaves it out.
    """
    nats_N = torch.empty(targets_N.shape, dtype=torch.float32, device=logits_NV.device)
    minus_one_N1 = torch.full_like(targets_N, -1, dtype=torch.float32)[:, None]
    for rows in float32_slices(logits_NV):
        probs_NV, nats_N[rows] = _probs_and_nats(logits_NV[rows], targets_N[rows])
        probs_NV.scatter_add_(1, targets_N[rows].clamp_min(0)[:, None], minus_one_N1[rows])
        into[rows] = probs_NV
    return nats_N


def _probs_and_nats(logits_NV: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities, float32, and the nats of the targets.

    The largest probability is the inverse of the softmax's own sum, and never 0: with it the nats
    are exact without the logarithm of every probability.
    """
    wide_NV = logits_NV.float()
    picked_N = wide_NV.gather(1, targets_N.clamp_min(0)[:, None]).squeeze(1)
    probs_NV = torch.softmax(wide_NV, dim=-1)
    nats_N = wide_NV.amax(1) - picked_N - probs_NV.amax(1).log()
    return probs_NV, nats_N.masked_fill(targets_N == IGNORE_INDEX, 0.0)
