"""How the workers of a run share its model, and what is done to a model for that, in place."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import nn

from training.config import TrainPlan
from training.decoder.model import Decoder
from training.parallel.config import ParallelConfig
from training.parallel.grid import (
    REPLICA,
    SHARD,
    TENSOR,
    Grid,
    grid_of,
    mesh_of,
    workers_by_machine,
)
from training.parallel.recompute import recompute
from training.parallel.settle import settled

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Made once in a worker's life, as process groups are."""

    grid: Grid = field(default_factory=Grid)
    mesh: "DeviceMesh | None" = None
    """Of a grid that is spread."""
    recompute: Literal["none", "selective", "full"] = "none"
    compile: bool = False

    def apply(self, model: nn.Module) -> None:
        """Prepare a ``CausalModel``, which may be on the meta device; every rank must call this.

        Parameters keep their names and, as DTensors, their shapes. The optimizer comes after it.
        """
        blocks = blocks_of(model)
        if self.mesh is not None and self.grid.tensor_parallel > 1:
            # 0.5 s to import what it needs.
            from training.parallel.tensor_parallel import cut  # noqa: PLC0415

            cut(cast("Decoder", model), self.mesh[TENSOR])
        for block in blocks:
            if self.recompute != "none":
                recompute(block, self.recompute)
            if self.compile:
                block.compile()
        if self.mesh is not None and self.grid.data_parallel > 1:
            names = (REPLICA, SHARD) if self.grid.replicas > 1 else (SHARD,)
            _shard([*blocks, model], self.mesh[names])


def spread_of(
    plan: TrainPlan, parallel: ParallelConfig, *, num_workers: int, device: torch.device
) -> Spread:
    """Arrange the workers for a plan, what is ``auto`` too; every rank must call this.

    Raises:
        ValueError: They cannot share this model in the wished way, or it does not fit; names the
            field.
    """
    if parallel.tensor_parallel > 1:
        from training.parallel.tensor_parallel import check_can_be_cut  # noqa: PLC0415  as above

        check_can_be_cut(plan.model, parallel.tensor_parallel)

    def machines() -> list[int]:
        return workers_by_machine(device)

    # Before it is asked what would fit, whose arithmetic takes this for granted.
    grid_of(parallel, num_workers, machines)
    parallel = settled(plan, parallel, num_workers=num_workers, device=device)
    grid = grid_of(parallel, num_workers, machines)
    kind = parallel.activation_checkpointing
    return Spread(
        grid=grid,
        mesh=mesh_of(grid, device) if grid.is_spread else None,
        recompute="none" if kind == "auto" else kind,
        compile=parallel.compile,
    )


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The layers that a model has many of: its list of modules with the most parameters."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return list(max(lists, key=_num_numbers, default=nn.ModuleList()))


def _num_numbers(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _shard(modules: list[nn.Module], mesh: "DeviceMesh") -> None:
    """FSDP2, a group of parameters for each of ``modules``, the whole model last.

    In float32, as autocast casts what a product reads: gathered in bf16, norms and embeddings would
    be rounded too, and a run would not have the losses that it has under DDP.
    """
    # 0.5 s to import, which only a sharded model needs.
    from torch.distributed.fsdp import (  # noqa: PLC0415
        fully_shard,
        register_fsdp_forward_method,
    )

    for module in modules:
        fully_shard(module, mesh=mesh)
    if isinstance(modules[-1], Decoder):
        # What the loop calls; of other models that calls ``forward``.
        register_fsdp_forward_method(modules[-1], "summed_nats")
