"""Tensors of which each rank holds a piece (DTensors, as FSDP2 and tensor parallelism make them).

Every function takes whole tensors as well, and costs nothing for them.
"""

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor, Replicate


def is_in_pieces(tensor: Tensor) -> bool:
    """Whether the ranks share the tensor; each may yet hold all of it."""
    # Not isinstance: the class takes half a second to import; who has such a tensor has it already.
    return hasattr(tensor, "device_mesh")


def local_of(tensor: Tensor) -> Tensor:
    """The piece that this rank holds, in the same memory; gradients flow through."""
    return cast("DTensor", tensor).to_local() if is_in_pieces(tensor) else tensor


@torch.no_grad()
def whole_of(tensor: Tensor) -> Tensor:
    """The whole tensor, on every rank; of one in pieces every rank must call this."""
    if not is_in_pieces(tensor):
        return tensor
    gathered = cast("DTensor", tensor)
    placements = list(gathered.placements)
    # One dimension of the mesh after the other: torch warns of doing several at once.
    for dim, placement in enumerate(gathered.placements):
        if not placement.is_replicate():
            placements[dim] = _replicated()
            gathered = gathered.redistribute(placements=placements)
    return gathered.to_local()


def num_holders(tensor: Tensor, num_workers: int) -> int:
    """How many of ``num_workers`` hold the same piece."""
    if not is_in_pieces(tensor):
        return num_workers
    spread = cast("DTensor", tensor)
    for size, placement in zip(spread.device_mesh.shape, spread.placements, strict=True):
        if not placement.is_replicate():
            num_workers //= size
    return num_workers


@torch.no_grad()
def fill(parameter: Tensor, whole: Tensor) -> None:
    """Copy ``whole`` into a parameter, or into the piece of it that this rank holds.

    Of a parameter in pieces every rank must call this with the same bits; nothing is communicated.
    Converts precision and device on the way.
    """
    if is_in_pieces(parameter):
        # Half a second to import; who has such a parameter has it already.
        from torch.distributed.tensor import distribute_tensor  # noqa: PLC0415

        spread = cast("DTensor", parameter)
        whole = distribute_tensor(
            whole.to(device=spread.device, dtype=spread.dtype),
            spread.device_mesh,
            spread.placements,
            src_data_rank=None,
        )
    parameter.copy_(whole)


def _replicated() -> "Replicate":
    from torch.distributed.tensor import Replicate  # noqa: PLC0415  see fill

    return Replicate()
