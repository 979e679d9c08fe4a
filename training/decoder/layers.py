"""The layers of the native decoder: attention, SwiGLU and norms, as ``ModelConfig`` says.

Shapes: B rows, T positions, C ``hidden_size``, H query heads, K key and value heads, D width of a
head.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from training.decoder.attention import attend, rotate
from training.decoder.config import ModelConfig
from training.decoder.sharding import local_of


class KeyValues:
    """Keys and values of what one layer has read, with room for more.

    Args:
        most: Tokens of a row.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._length = 0
        self._keys = self._values = torch.empty(0)

    def extended(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """All that was read, once ``[B, K, n, D]`` more are."""
        if self._length == 0:
            rows, num_heads, _, width = key.shape
            self._keys = key.new_empty(rows, num_heads, self._most, width)
            self._values = value.new_empty(rows, num_heads, self._most, width)
        first, self._length = self._length, self._length + key.shape[2]
        self._keys[:, :, first : self._length] = key
        self._values[:, :, first : self._length] = value
        return self._keys[:, :, : self._length], self._values[:, :, : self._length]

    def keep(self, rows: Tensor) -> None:
        """Forget all other rows."""
        self._keys, self._values = self._keys[rows], self._values[rows]


class PreNormLayer(nn.Module):
    """Norms of what goes into attention and the SwiGLU: Llama, Mistral, Qwen."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = SwiGLU(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        x: Tensor,
        tables: tuple[Tensor, Tensor],
        mask: Tensor | None,
        past: KeyValues | None = None,
    ) -> Tensor:
        """``[B, T, C]`` to the same."""
        x = x + self.self_attn(self.input_layernorm(x), tables, mask, past)
        return x + self.mlp(self.post_attention_layernorm(x))


class PostNormLayer(nn.Module):
    """Norms of what comes out of attention and the SwiGLU: OLMo 2."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = SwiGLU(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_feedforward_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        x: Tensor,
        tables: tuple[Tensor, Tensor],
        mask: Tensor | None,
        past: KeyValues | None = None,
    ) -> Tensor:
        """``[B, T, C]`` to the same."""
        x = x + self.post_attention_layernorm(self.self_attn(x, tables, mask, past))
        return x + self.post_feedforward_layernorm(self.mlp(x))


class Attention(nn.Module):
    """Causal grouped-query attention on rotated, optionally normalised, queries and keys."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        num_heads, num_kv_heads = config.num_heads, config.num_kv_heads
        self.heads = (num_heads, num_kv_heads, num_kv_heads)
        width, bias = config.head_width, config.qkv_bias
        self.q_proj = Linear(config.hidden_size, num_heads * width, bias=bias)
        self.k_proj = Linear(config.hidden_size, num_kv_heads * width, bias=bias)
        self.v_proj = Linear(config.hidden_size, num_kv_heads * width, bias=bias)
        self.o_proj = Linear(num_heads * width, config.hidden_size, bias=config.output_bias)
        self.q_norm = self.k_norm = None
        if config.qk_norm is not None:
            heads_normed = (1, 1) if config.qk_norm == "head" else (num_heads, num_kv_heads)
            self.q_norm = RMSNorm(heads_normed[0] * width, config.rms_norm_eps)
            self.k_norm = RMSNorm(heads_normed[1] * width, config.rms_norm_eps)

    def forward(
        self,
        x: Tensor,
        tables: tuple[Tensor, Tensor],
        mask: Tensor | None,
        past: KeyValues | None = None,
    ) -> Tensor:
        """``[B, T, C]`` to the same; with a ``past`` that is attended to, too, and grows by it."""
        num_heads, num_kv_heads, _ = self.heads
        # One product for all three reads the activations once, forward and backward.
        heads_BTHD = _joint_linear(x, self.q_proj, self.k_proj, self.v_proj).unflatten(
            -1, (sum(self.heads), -1)
        )
        if self.q_norm is None or self.k_norm is None:
            rotated, value = heads_BTHD.split([num_heads + num_kv_heads, num_kv_heads], dim=2)
            query, key = rotate(rotated, tables).split([num_heads, num_kv_heads], dim=1)
        else:
            query, key, value = heads_BTHD.split(self.heads, dim=2)
            query = rotate(normed_heads(query, self.q_norm), tables)
            key = rotate(normed_heads(key, self.k_norm), tables)
        value = value.transpose(1, 2)
        if past is not None:
            key, value = past.extended(key, value)
        return self.o_proj(attend(query, key, value, mask))


class SwiGLU(nn.Module):
    """The feed-forward block."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, bias = config.intermediate_size, config.mlp_bias
        self.gate_proj = Linear(config.hidden_size, width, bias=bias)
        self.up_proj = Linear(config.hidden_size, width, bias=bias)
        self.down_proj = Linear(width, config.hidden_size, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, T, C]`` to the same."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class RMSNorm(nn.Module):
    """In float32 (Zhang and Sennrich 2019, arXiv:1910.07467), cast for the next product."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Over the last dimension."""
        return rms_normed(x, self.weight, self.eps)


def rms_normed(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """What ``RMSNorm`` computes."""
    # Cast once here, or autocast casts again for every product that reads it.
    dtype = product_dtype(x)
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.rms_norm(x.float(), weight.shape, weight.float(), eps).to(dtype)
    return cast("Tensor", _RMSNorm.apply(x, weight, eps, dtype))


def product_dtype(x: Tensor) -> torch.dtype:
    """What a product of ``x`` is computed in."""
    device = x.device.type
    is_cast = torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if is_cast else x.dtype


class _RMSNorm(torch.autograd.Function):
    """torch fuses the norm on a GPU only; on two cores this takes half as long as its steps."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        wide = x.float()
        norms = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        inverse = (norms.square_() / x.shape[-1] + eps).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        return (wide * inverse).mul_(weight).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  the decorator hides names
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor, Tensor, None, None]:
        x, weight, inverse = ctx.saved_tensors
        wide, grad = x.float(), grad_outputs[0].float()
        shares = (grad * wide).flatten(0, -2)
        grad_weight = inverse.flatten() @ shares
        sums = (shares @ weight.float()).view_as(inverse)
        grad_x = (grad * weight).mul_(inverse)
        grad_x.addcmul_(wide, sums * inverse**3, value=-1.0 / x.shape[-1])
        return grad_x.to(x.dtype), grad_weight.to(weight.dtype), None, None


# Not torch's skip_init, which goes by the meta device and imports the compiler: seconds, 100 MB.
class Linear(nn.Linear):
    """A layer for ``init_weights`` to fill: torch's own start moves the global random state."""

    def reset_parameters(self) -> None:
        """Leave the memory as it is."""

    def forward(self, input: Tensor) -> Tensor:
        """``[..., in_features]`` to ``[..., out_features]``, or as many of those as are here."""
        bias = cast("Tensor | None", self.bias)
        return F.linear(input, local_of(self.weight), None if bias is None else local_of(bias))


class Embedding(nn.Embedding):
    """A table for ``init_weights`` to fill."""

    def reset_parameters(self) -> None:
        """Leave the memory as it is."""


def normed_heads(heads: Tensor, norm: RMSNorm) -> Tensor:
    """``[B, T, heads, D]``, each head or all of them together as wide as the norm is."""
    if norm.weight.shape[0] == heads.shape[-1]:
        return norm(heads)
    return norm(heads.flatten(2)).view(heads.shape)


def _joint_linear(x: Tensor, *layers: nn.Linear) -> Tensor:
    """The outputs of ``layers`` side by side."""
    weights = [local_of(layer.weight) for layer in layers]
    biases = [
        local_of(layer.bias)
        for layer in layers
        if layer.bias is not None  # pyright: ignore[reportUnnecessaryComparison]  torch hides it
    ]
    return F.linear(x, torch.cat(weights), torch.cat(biases) if biases else None)
