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

from training.cross_entropy import IGNORE_INDEX, chunks_of, float32_slices


class Slice(NamedTuple):
    """Rows of the output layer that a worker has; all workers have as many."""

    group: dist.ProcessGroup
    first_row: int


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
        nats = torch.empty(targets.shape, dtype=torch.float32, device=hidden.device)
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight, dtype=torch.float32)
        # As many rows at a time on every worker, as all have as much of the vocabulary.
        for hidden_NC, weight_VC, rows, logits_NV in chunks_of(hidden, weight):
            torch.mm(hidden_NC[rows], weight_VC.T, out=logits_NV)
            nats[rows] = _differentiated(logits_NV, targets[rows], own)
            grad_hidden[rows] = logits_NV @ weight_VC
            grad_weight += logits_NV.T @ hidden_NC[rows]
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


def _differentiated(logits_NV: Tensor, targets_N: Tensor, own: Slice) -> Tensor:
    """The nats; the derivative of their sum takes the place of the logits."""
    peak_N = logits_NV.amax(1).float()
    dist.all_reduce(peak_N, dist.ReduceOp.MAX, own.group)
    places_N = targets_N - own.first_row
    is_here_N = (places_N >= 0) & (places_N < logits_NV.shape[1])
    places_N1 = places_N.masked_fill(~is_here_N, 0)[:, None]
    picked_N = logits_NV.gather(1, places_N1)[:, 0].float() - peak_N
    sums_2N = torch.stack([torch.empty_like(peak_N), picked_N.masked_fill(~is_here_N, 0.0)])
    for rows in float32_slices(logits_NV):
        sums_2N[0, rows] = _exponentials(logits_NV[rows], peak_N[rows]).sum(1)
    dist.all_reduce(sums_2N, group=own.group)
    is_ignored_N = targets_N == IGNORE_INDEX
    # Exponentials are computed again: kept in float32 they would be the most that a step holds.
    for rows in float32_slices(logits_NV):
        grad_NV = _exponentials(logits_NV[rows], peak_N[rows]).div_(sums_2N[0, rows, None])
        grad_NV.scatter_add_(1, places_N1[rows], -is_here_N[rows].float()[:, None])
        logits_NV[rows] = grad_NV.mul_(~is_ignored_N[rows, None])
    return (sums_2N[0].log() - sums_2N[1]).masked_fill(is_ignored_N, 0.0)


def _exponentials(logits_NV: Tensor, peak_N: Tensor) -> Tensor:
    """Of the distance from the peak, float32."""
    return (logits_NV - peak_N[:, None]).exp_()
