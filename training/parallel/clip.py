"""The norm of all gradients, whoever holds them."""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import nn

from training.decoder.sharding import is_in_pieces, local_of, num_holders


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> float:
    """Scale all gradients down to ``max_norm`` together; returns their norm before that.

    It is the same number on every rank, and not finite on all of them where one gradient is not on
    one rank. Every rank must call this.
    """
    owners = [parameter for parameter in parameters if parameter.grad is not None]
    if not any(is_in_pieces(owner) for owner in owners):
        # Whole gradients are the same everywhere already.
        return float(nn.utils.clip_grad_norm_(owners, max_norm))
    gradients = [owner.grad for owner in owners if owner.grad is not None]
    pieces = [local_of(gradient) for gradient in gradients]
    num_workers = dist.get_world_size()
    shares = [1 / num_holders(gradient, num_workers) for gradient in gradients]
    norms = torch.stack(torch._foreach_norm(pieces)).double()  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
    total = (norms.square() * norms.new_tensor(shares)).sum()
    dist.all_reduce(total)
    norm = float(total.sqrt())
    scale = min(1.0, max_norm / (norm + 1e-6))
    torch._foreach_mul_(pieces, scale)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
    return norm
