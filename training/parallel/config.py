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
    """Workers that share every matrix of the native decoder, on the same samples; divides the
    workers, ``num_heads``, ``num_kv_heads``, ``intermediate_size`` and ``vocab_size``."""
    activation_checkpointing: Literal["auto", "none", "selective", "full"] = "auto"
    """What the backward pass computes again instead of keeping it. ``selective``: everything but
    matrix products and attention; ``full``: whole blocks; ``auto``: the least that fits."""
    compile: bool = False
    """``torch.compile`` of every block: slower to start, faster afterwards on a GPU."""

    def __post_init__(self) -> None:
        sharing, across = self.shard_workers, self.tensor_parallel
        if sharing is not None and self.strategy != "hsdp":
            raise ValueError(
                f"shard_workers {sharing} goes with strategy hsdp, not with {self.strategy}: leave "
                "it out"
            )
        if sharing is not None and sharing % across:
            raise ValueError(
                f"tensor_parallel {across} must divide shard_workers {sharing}, because the "
                "workers that share a matrix belong to one copy of the model: change either"
            )

    @property
    def worker_multiple(self) -> int:
        """The number of workers must be a multiple of this."""
        return self.shard_workers or self.tensor_parallel
