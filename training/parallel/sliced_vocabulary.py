"""Cross entropy where every worker has the logits of its own slice of the vocabulary.

``training.cross_entropy`` for tensor parallelism: of the logits only their largest, the sum of
their exponentials and the target's own are exchanged.

Shapes: N predictions, C width of the hidden states, V vocabulary of this worker.
"""

from typing import Any, NamedTuple, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from training.cross_entropy import IGNORE_INDEX, row_slices


class Slice(NamedTuple):
    """Rows of the output layer that a worker has; all workers have as many."""

    group: dist.ProcessGroup
    first_row: int
    num_rows: int
    """Of all workers."""


def summed_nats_of_slice(
    hidden: Tensor, weight: Tensor, targets: Tensor, own: Slice
) -> tuple[Tensor, Tensor]:
    """``training.cross_entropy.summed_nats`` over the slices of all workers, which all call it.

    Args:
        hidden: ``[N, C]``, the same on all workers; its gradient is this worker's part.
        weight: ``[V, C]``, this worker's rows of the output layer.
        targets: ``int64[N]``, in the whole vocabulary.
        own: Which rows they are.
    """
    return cast("tuple[Tensor, Tensor]", _SummedNatsOfSlice.apply(hidden, weight, targets, own))


class _SummedNatsOfSlice(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, own: Slice
    ) -> tuple[Tensor, Tensor]:
        ctx.dtypes = hidden.dtype, weight.dtype
        device = hidden.device.type
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
            hidden, weight = hidden.to(dtype), weight.to(dtype)
        nats = torch.empty(targets.shape, dtype=torch.float32, device=hidden.device)
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight, dtype=torch.float32)
        # As many rows at a time on every worker.
        for rows in row_slices(hidden, own.num_rows):
            logits_NV = (hidden[rows] @ weight.T).float()
            grad_NV, nats[rows] = _grad_and_nats(logits_NV, targets[rows], own)
            grad_NV = grad_NV.to(weight.dtype)
            grad_hidden[rows] = grad_NV @ weight
            grad_weight += grad_NV.T @ hidden[rows]
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.mark_non_differentiable(nats)
        return nats.sum(), nats

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  the decorator hides names
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor, Tensor, None, None]:
        grads = [
            (grad * grad_outputs[0]).to(dtype)
            for grad, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return grads[0], grads[1], None, None


def _grad_and_nats(logits_NV: Tensor, targets_N: Tensor, own: Slice) -> tuple[Tensor, Tensor]:
    """Derivative of the summed nats, and the nats; overwrites ``logits_NV``."""
    peak_N = logits_NV.amax(1)
    dist.all_reduce(peak_N, dist.ReduceOp.MAX, own.group)
    logits_NV -= peak_N[:, None]
    places_N = targets_N - own.first_row
    is_here_N = (places_N >= 0) & (places_N < logits_NV.shape[1])
    places_N1 = places_N.masked_fill(~is_here_N, 0)[:, None]
    picked_N = logits_NV.gather(1, places_N1)[:, 0].masked_fill(~is_here_N, 0.0)
    grad_NV = logits_NV.exp_()
    sums_2N = torch.stack([grad_NV.sum(1), picked_N])
    dist.all_reduce(sums_2N, group=own.group)
    is_ignored_N = targets_N == IGNORE_INDEX
    nats_N = (sums_2N[0].log() - sums_2N[1]).masked_fill(is_ignored_N, 0.0)
    grad_NV /= sums_2N[0][:, None]
    grad_NV.scatter_add_(1, places_N1, -is_here_N.float()[:, None])
    return grad_NV.mul_(~is_ignored_N[:, None]), nats_N
