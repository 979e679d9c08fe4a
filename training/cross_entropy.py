"""Cross entropy of the output layer, in nats, without ever holding the logits of a whole batch.

The logits are by far the largest activation of a small model or a large vocabulary. Both functions
compute them for some rows at a time, see ``training.chunks``; the loss and its derivative
leave, the logits are dropped.

Shapes: N predictions, C width of the hidden states, V vocabulary.
"""

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from training.chunks import rows_per_chunk

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
    return torch.cat(
        [
            _log_probs_and_nats(hidden[rows], weight, targets[rows])[1]
            for hidden, weight, rows in _chunks(hidden, weight)
        ]
    )


def summed_nats_of_logits(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """``summed_nats`` for logits ``[N, V]`` that exist already, with gradients for them."""
    return cast("tuple[Tensor, Tensor]", _SummedNatsOfLogits.apply(logits, targets))


@torch.no_grad()
def nats_of_logits(logits: Tensor, targets: Tensor) -> Tensor:
    """``nats_of_targets`` for logits ``[N, V]`` that exist already."""
    return torch.cat(
        [_nats_of(logits[rows], targets[rows])[1] for rows in row_slices(logits, logits.shape[1])]
    )


class _SummedNatsOfLogits(torch.autograd.Function):
    """The gradient is kept in the precision of the logits; float32 only a few rows at a time."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        nats = torch.empty(targets.shape, dtype=torch.float32, device=logits.device)
        grad = torch.empty_like(logits)
        for rows in row_slices(logits, logits.shape[1]):
            log_probs_NV, nats[rows] = _nats_of(logits[rows], targets[rows])
            grad[rows] = _grad_of_logits(log_probs_NV, targets[rows]).to(logits.dtype)
        ctx.save_for_backward(grad)
        ctx.mark_non_differentiable(nats)
        return nats.sum(), nats

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  the decorator hides names
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor, None]:
        (grad,) = ctx.saved_tensors
        return grad * grad_outputs[0], None


class _SummedNats(torch.autograd.Function):
    """The gradient is computed with the loss, while the logits are at hand."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        nats = torch.empty(targets.shape, dtype=torch.float32, device=hidden.device)
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight, dtype=torch.float32)
        for hidden_NC, weight_VC, rows in _chunks(hidden, weight):
            log_probs_NV, nats[rows] = _log_probs_and_nats(
                hidden_NC[rows], weight_VC, targets[rows]
            )
            grad_NV = _grad_of_logits(log_probs_NV, targets[rows]).to(weight_VC.dtype)
            grad_hidden[rows] = grad_NV @ weight_VC
            grad_weight += grad_NV.T @ hidden_NC[rows]
        ctx.save_for_backward(grad_hidden, grad_weight.to(weight.dtype))
        ctx.mark_non_differentiable(nats)
        return nats.sum(), nats

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  the decorator hides names
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor, Tensor, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * grad_outputs[0], grad_weight * grad_outputs[0], None


def _chunks(hidden: Tensor, weight: Tensor) -> Iterator[tuple[Tensor, Tensor, slice]]:
    """Both matrices in the precision to multiply in, and slices over the rows of ``hidden``."""
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
    for rows in row_slices(hidden, weight.shape[0]):
        yield hidden, weight, rows


def row_slices(matrix: Tensor, vocab_size: int) -> Iterator[slice]:
    """Slices over the rows of ``matrix``, each with as many logits as a chunk may have.

    For others that compute logits a few rows at a time.
    """
    rows = rows_per_chunk(vocab_size, matrix.device.type)
    for start in range(0, matrix.shape[0], rows):
        yield slice(start, start + rows)


def _log_probs_and_nats(
    hidden_NC: Tensor, weight_VC: Tensor, targets_N: Tensor
) -> tuple[Tensor, Tensor]:
    return _nats_of(hidden_NC @ weight_VC.T, targets_N)


def _nats_of(logits_NV: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities, float32, and the nats of the targets."""
    log_probs_NV = torch.log_softmax(logits_NV, dim=-1, dtype=torch.float32)
    nats_N = -log_probs_NV.gather(1, targets_N.clamp_min(0)[:, None]).squeeze(1)
    return log_probs_NV, nats_N.masked_fill(targets_N == IGNORE_INDEX, 0.0)


def _grad_of_logits(log_probs_NV: Tensor, targets_N: Tensor) -> Tensor:
    """Derivative of the summed nats; overwrites ``log_probs_NV``."""
    grad_NV = log_probs_NV.exp_()
    ones = torch.ones_like(targets_N, dtype=torch.float32)
    grad_NV.scatter_add_(1, targets_N.clamp_min(0)[:, None], -ones[:, None])
    return grad_NV.mul_((targets_N != IGNORE_INDEX)[:, None])
