"""How a model is spread over workers. Needs no torch."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from infra.bounds import FORBID_UNKNOWN, Bounds


@dataclass(frozen=True, kw_only=True, slots=True)
class ParallelConfig:
    """How a model is spread over workers.

    Changes sums in their last bits at most, so it is in no identity.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN

    strategy: Literal["auto", "ddp", "fsdp", "hsdp"] = "auto"
    """``ddp``: every worker holds the whole model. ``fsdp``: weights, gradients and moments are
    sharded over all workers (FSDP2). ``hsdp``: sharded within ``shard_workers``, replicated
    between. ``auto``: the first of ``ddp`` and ``fsdp`` that the memory estimate says will fit."""
    shard_workers: Annotated[int | None, Bounds(gt=0, unit="workers")] = None
    """``hsdp``: workers that share one copy of the model; those of one machine when not set."""
    tensor_parallel: Annotated[int, Bounds(gt=0, unit="workers")] = 1
    """Workers that share every matrix of the native decoder; divides its heads."""
    activation_checkpointing: Literal["auto", "none", "selective", "full"] = "auto"
    """What the backward pass computes again instead of keeping it. ``selective``: everything but
    matrix products and attention; ``full``: whole blocks; ``auto``: the least that fits."""
    compile: bool = False
    """``torch.compile`` of every block: slower to start, faster afterwards on a GPU."""
