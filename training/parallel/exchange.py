"""When ranks exchange the gradients of a step of several micro batches."""

import contextlib
from collections.abc import Generator
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel


@contextlib.contextmanager
def gradients_exchanged(model: nn.Module, *, is_last: bool) -> Generator[None]:
    """Forward and backward pass of one micro batch of a step; copies of a model exchange once.

    Whole gradients stay on their rank until the last micro batch. Shards are summed up within a
    copy after each, or every rank would hold whole gradients until then, which is what sharding
    avoids; between copies they are exchanged with the last.

    Args:
        model: As the loop calls it.
        is_last: It is the last micro batch of its step.
    """
    if isinstance(model, DistributedDataParallel):
        with contextlib.nullcontext() if is_last else model.no_sync():
            yield
        return
    for module in model.children():
        # FSDP2 gives this to what it shards; its class takes half a second to import.
        set_requires_all_reduce: Any = getattr(module, "set_requires_all_reduce", None)
        if set_requires_all_reduce is not None:
            set_requires_all_reduce(is_last)
    yield
