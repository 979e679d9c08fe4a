"""Tensor parallelism of the native decoder: several workers compute every product together.

As in Megatron-LM (Shoeybi et al. 2019, arXiv:1909.08053): queries, keys, values and the first half
of the SwiGLU are cut by their rows, so that each worker has heads and features of its own; the
layers after them by their columns, so that their results are summed. Embedding and output layer are
cut by the vocabulary. Norms, and what flows between the layers, are whole everywhere.

The parameters are DTensors, whose shapes and names are those of the whole; computed is on the
pieces, with the exchanges written out here.
"""

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from training.config import ModelConfig
from training.decoder.layers import Attention, RMSNorm, SwiGLU, product_dtype, rms_normed
from training.decoder.model import Decoder
from training.decoder.sharding import local_of
from training.parallel.sliced_vocabulary import Slice, summed_nats_of_slice

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


def check_can_be_cut(config: object, num_workers: int) -> None:
    """Raise ValueError, naming the field, unless ``num_workers`` can share every product."""
    if not isinstance(config, ModelConfig):
        raise ValueError(  # noqa: TRY004  what is wrong is the number
            f"tensor_parallel {num_workers} is for models that the native decoder computes, and "
            f"{getattr(config, 'model_type', 'this')} is computed by transformers: choose strategy "
            "fsdp with tensor_parallel 1"
        )
    for name in ("num_heads", "num_kv_heads", "intermediate_size", "vocab_size"):
        if getattr(config, name) % num_workers:
            raise ValueError(
                f"tensor_parallel {num_workers} must divide {name}, found "
                f"{getattr(config, name)}: choose another tensor_parallel, or strategy fsdp"
            )


def cut(model: Decoder, mesh: "DeviceMesh") -> None:
    """Leave this worker its pieces of a decoder, which may be on the meta device.

    Args:
        model: Changed in place; ``summed_nats`` is what it computes from then on.
        mesh: One dimension: the workers that share it.
    """
    team = _Team(mesh.get_group(), mesh.get_local_rank(), mesh.size())
    over_heads = model.config.qk_norm == "width"
    for layer in model.model.layers:
        _cut_attention(cast("Attention", layer.self_attn), mesh, team, goes_over_heads=over_heads)
        _cut_feed_forward(cast("SwiGLU", layer.mlp), mesh, team)
    embedding = model.model.embed_tokens
    _cut_parameters(embedding, mesh, dim=0)
    embedding.forward = partial(_embed, embedding, team)  # pyright: ignore[reportAttributeAccessIssue]  a name
    if model.lm_head is not None:
        _cut_parameters(model.lm_head, mesh, dim=0)
    model.summed_nats = partial(_summed_nats, model, team)


class _Team(NamedTuple):
    """The workers that share a product."""

    group: dist.ProcessGroup
    rank: int
    size: int

    def slice_of(self, num_rows: int) -> Slice:
        """Whose rows of a table this rank has."""
        return Slice(self.group, self.rank * (num_rows // self.size))


def _cut_attention(
    attention: Attention, mesh: "DeviceMesh", team: _Team, *, goes_over_heads: bool
) -> None:
    """``goes_over_heads``: norms of queries and keys, if any, are over all heads together."""
    for layer in (attention.q_proj, attention.k_proj, attention.v_proj):
        _cut_parameters(layer, mesh, dim=0)
    queries, keys, values = (heads // team.size for heads in attention.heads)
    attention.heads = (queries, keys, values)
    for norm in (attention.q_norm, attention.k_norm):
        if norm is None:
            continue
        if goes_over_heads:
            _cut_parameters(norm, mesh, dim=0)
        norm.forward = partial(_normed_width if goes_over_heads else _normed_heads, norm, team)
    _cut_output(attention.o_proj, mesh, team)
    attention.register_forward_pre_hook(partial(_share_input, team))


def _cut_feed_forward(mlp: SwiGLU, mesh: "DeviceMesh", team: _Team) -> None:
    for layer in (mlp.gate_proj, mlp.up_proj):
        _cut_parameters(layer, mesh, dim=0)
    _cut_output(mlp.down_proj, mesh, team)
    mlp.register_forward_pre_hook(partial(_share_input, team))


def _cut_output(layer: nn.Linear, mesh: "DeviceMesh", team: _Team) -> None:
    """Cut by columns; a bias stays whole, and is added to the sum."""
    _cut_parameters(layer, mesh, dim=1)
    layer.forward = partial(_sum_of_products, layer, team)  # pyright: ignore[reportAttributeAccessIssue]  a name


def _cut_parameters(layer: nn.Module, mesh: "DeviceMesh", *, dim: int) -> None:
    # Half a second to import, which only a model in pieces needs.
    from torch.distributed.tensor import Shard, distribute_tensor  # noqa: PLC0415

    for name, parameter in list(layer.named_parameters(recurse=False)):
        if parameter.ndim > dim:
            piece = distribute_tensor(parameter.detach(), mesh, [Shard(dim)], src_data_rank=None)
            setattr(layer, name, nn.Parameter(piece))


def _share_input(team: _Team, _layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Hook: what comes in is the same everywhere, and its gradient is the sum of all."""
    return (_shared(args[0], team), *args[1:])


def _sum_of_products(layer: nn.Linear, team: _Team, x: Tensor) -> Tensor:
    """Forward pass of a layer whose columns are cut."""
    out = _summed(F.linear(x, local_of(layer.weight)), team)
    bias = cast("Tensor | None", layer.bias)
    return out if bias is None else out + bias.to(out.dtype)


def _normed_heads(norm: RMSNorm, team: _Team, x: Tensor) -> Tensor:
    """Forward pass of a norm of each head: one weight for the heads of all workers."""
    return rms_normed(x, _shared(norm.weight, team), norm.eps)


def _normed_width(norm: RMSNorm, team: _Team, x: Tensor) -> Tensor:
    """Forward pass of a norm over the heads of all workers: they add up their squares."""
    wide = x.float()
    squares = _summed(wide.square().sum(-1, keepdim=True), team)
    # Every worker uses the sum for what is its own.
    mean = _shared(squares, team) / (team.size * x.shape[-1])
    normed = wide * (mean + norm.eps).rsqrt() * local_of(norm.weight)
    return normed.to(product_dtype(x))


def _embed(embedding: nn.Embedding, team: _Team, tokens: Tensor) -> Tensor:
    """Forward pass of a table whose rows are cut: all but one worker add zeros."""
    rows = local_of(embedding.weight)
    local_tokens = tokens - team.slice_of(embedding.num_embeddings).first_row
    is_elsewhere = (local_tokens < 0) | (local_tokens >= len(rows))
    found = F.embedding(local_tokens.masked_fill(is_elsewhere, 0), rows)
    return _summed(found.masked_fill(is_elsewhere[..., None], 0.0), team)


def _summed_nats(
    model: Decoder, team: _Team, tokens: Tensor, segments: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    """``Decoder.summed_nats`` with a vocabulary that is cut."""
    hidden_NC = _shared(model.forward_hidden(tokens, segments).flatten(0, 1), team)
    return summed_nats_of_slice(
        hidden_NC,
        local_of(model.output_weight),
        targets.flatten(),
        team.slice_of(model.config.vocab_size),
    )


def _shared(x: Tensor, team: _Team) -> Tensor:
    return cast("Tensor", _Shared.apply(x, team.group))


def _summed(x: Tensor, team: _Team) -> Tensor:
    return cast("Tensor", _Summed.apply(x, team.group))


class _Shared(torch.autograd.Function):
    """The same on all workers, each of which uses it for something else."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  the decorator hides names
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor, None]:
        return _sum_over(grad_outputs[0], ctx.group), None


class _Summed(torch.autograd.Function):
    """The sum over all workers, which use it for the same."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:  # noqa: ARG004
        return _sum_over(x, group)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  the decorator hides names
        ctx: Any,  # noqa: ARG004
        *grad_outputs: Tensor,
    ) -> tuple[Tensor, None]:
        return grad_outputs[0], None


def _sum_over(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """In float32, or the sum of bf16 numbers would be rounded once for every worker."""
    total = x.detach().to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    dist.all_reduce(total, group=group)
    return total.to(x.dtype)
