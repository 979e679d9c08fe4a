"""Writing whole tensors into parameters that may be sharded over ranks."""

import torch
from torch import Tensor


@torch.no_grad()
def fill(parameter: Tensor, whole: Tensor) -> None:
    """Copy ``whole`` into a parameter, or into the shard of it that this rank holds.

    Of a sharded parameter (a DTensor, as FSDP2 makes them) every rank must call this with the same
    bits; nothing is communicated. Converts precision and device on the way.
    """
    if hasattr(parameter, "device_mesh"):
        # Half a second to import; who has such a parameter has it already.
        from torch.distributed.tensor import DTensor, distribute_tensor  # noqa: PLC0415

        assert isinstance(parameter, DTensor)
        whole = distribute_tensor(
            whole.to(device=parameter.device, dtype=parameter.dtype),
            parameter.device_mesh,
            parameter.placements,
            src_data_rank=None,
        )
    parameter.copy_(whole)
