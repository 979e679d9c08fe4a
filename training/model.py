"""The native decoder: the Llama family, with parameters named as on the Hugging Face hub.

A pre-norm transformer with RMSNorm, rotary positions, grouped-query attention and SwiGLU (Touvron
et al. 2023, arXiv:2302.13971), optionally with biases on queries, keys and values and with tied
embeddings (Qwen2). A state dict of ours loads into ``LlamaForCausalLM`` or ``Qwen2ForCausalLM`` and
back without renaming; with tied embeddings there is no ``lm_head``, as in their files.

Shapes: B rows, T positions, C ``hidden_size``, V ``vocab_size``, H query heads, K key and value
heads, D width of a head.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.attention import (
    attend,
    positions_of,
    rotary_tables,
    rotate,
    segment_mask,
)
from training.config import ModelConfig
from training.cross_entropy import summed_nats


def num_parameters(config: ModelConfig) -> int:
    """Trainable numbers of the decoder; tied embeddings count once."""
    with torch.device("meta"):
        model = Decoder(config)
    return sum(parameter.numel() for parameter in model.parameters())


def flops_per_token(config: ModelConfig, seq_len: int) -> int:
    """Floating-point operations to train on one token, in the convention that MFU is quoted in.

    6 N + 12 L H D T (Chowdhery et al. 2022, arXiv:2204.02311), where N are the weights that are
    multiplied with: all but the input embedding, which is a look-up, and including the output
    layer, tied or not. The attention term counts the whole T x T square although half of it is
    masked.
    """
    table = 0 if config.tie_embeddings else config.vocab_size * config.hidden_size
    attention = config.num_layers * config.num_heads * config.head_width * seq_len
    return 6 * (num_parameters(config) - table) + 12 * attention


class Decoder(nn.Module):
    """A causal language model, ready to train once constructed; works on the meta device too."""

    def __init__(self, config: ModelConfig, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.model = _Backbone(config)
        self.lm_head = (
            None if config.tie_embeddings else _linear(config.hidden_size, config.vocab_size)
        )
        self.init_weights(seed)

    def forward(
        self, tokens: Tensor, segments: Tensor | None = None, *, targets: Tensor | None = None
    ) -> Tensor:
        """Logits ``[B, T, V]``, or the summed loss when ``targets`` are given.

        Args:
            tokens: ``int64[B, T]``.
            segments: ``int64[B, T]``, see ``training.attention.segments_of``. Attention stays
                inside a segment and positions restart with it. None: each row is one segment.
            targets: ``int64[B, T]``, ``IGNORE_INDEX`` where there is none. The result is then the
                sum of their nats, a float32 scalar, and the logits are never held as a whole:
                faster, and far less memory.
        """
        hidden_BTC = self.forward_hidden(tokens, segments)
        if targets is None:
            return F.linear(hidden_BTC, self.output_weight)
        return summed_nats(hidden_BTC.flatten(0, 1), self.output_weight, targets.flatten())[0]

    def forward_hidden(self, tokens: Tensor, segments: Tensor | None = None) -> Tensor:
        """Final hidden states ``[B, T, C]``, normalised, as the output layer eats them."""
        return self.model(tokens, segments)

    @property
    def output_weight(self) -> Tensor:
        """The output layer ``[V, C]``; the embedding itself when they are tied."""
        return self.model.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    @torch.no_grad()
    def init_weights(self, seed: int) -> None:
        """Draw all weights anew, from ``seed`` alone: matrices normal, norms 1, biases 0.

        Drawn on the processor in the order of ``named_parameters``, so that the device changes
        nothing and the global random state is neither read nor moved. On the meta device nothing
        happens.
        """
        generator = torch.Generator("cpu").manual_seed(seed)
        for name, parameter in self.named_parameters():
            if parameter.is_meta:
                continue
            if name.endswith("bias"):
                parameter.zero_()
            elif parameter.ndim == 1:
                parameter.fill_(1.0)
            else:
                drawn = torch.empty(parameter.shape, dtype=torch.float32, device="cpu")
                drawn.normal_(0.0, self.config.initializer_range, generator=generator)
                parameter.copy_(drawn)


class _Backbone(nn.Module):
    """Everything but the output layer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = cast(
            "nn.Embedding",
            nn.utils.skip_init(nn.Embedding, config.vocab_size, config.hidden_size),
        )
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.num_layers))
        self.norm = _RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, tokens: Tensor, segments: Tensor | None) -> Tensor:
        # Once a forward, not once a layer.
        if segments is None:
            mask = None
            positions = torch.arange(tokens.shape[1], device=tokens.device)
        else:
            mask = segment_mask(segments)
            positions = positions_of(segments)
        tables = rotary_tables(
            positions, head_dim=self.config.head_width, theta=self.config.rope_theta
        )
        x_BTC = self.embed_tokens(tokens)
        for layer in self.layers:
            x_BTC = layer(x_BTC, tables, mask)
        return self.norm(x_BTC)


class _Layer(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.self_attn = _Attention(config)
        self.mlp = _SwiGLU(config)
        self.input_layernorm = _RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = _RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, tables: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), tables, mask)
        return x + self.mlp(self.post_attention_layernorm(x))


class _Attention(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = (config.num_heads, config.num_kv_heads, config.num_kv_heads)
        width, bias = config.head_width, config.qkv_bias
        self.q_proj = _linear(config.hidden_size, config.num_heads * width, bias=bias)
        self.k_proj = _linear(config.hidden_size, config.num_kv_heads * width, bias=bias)
        self.v_proj = _linear(config.hidden_size, config.num_kv_heads * width, bias=bias)
        self.o_proj = _linear(config.num_heads * width, config.hidden_size)

    def forward(self, x: Tensor, tables: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        num_heads, num_kv_heads, _ = self.heads
        # One product for all three reads the activations once, forward and backward.
        heads_BTHD = _joint_linear(x, self.q_proj, self.k_proj, self.v_proj).unflatten(
            -1, (sum(self.heads), -1)
        )
        rotated, value = heads_BTHD.split([num_heads + num_kv_heads, num_kv_heads], dim=2)
        query, key = rotate(rotated, tables).split([num_heads, num_kv_heads], dim=2)
        return self.o_proj(attend(query, key, value, mask))


class _SwiGLU(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = _linear(config.hidden_size, config.intermediate_size)
        self.up_proj = _linear(config.hidden_size, config.intermediate_size)
        self.down_proj = _linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class _RMSNorm(nn.Module):
    """In float32 (Zhang and Sennrich 2019, arXiv:1910.07467), cast for the next product."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        normed = F.rms_norm(x.float(), self.weight.shape, self.weight.float(), self.eps)
        device = x.device.type
        if torch.is_autocast_enabled(device):
            # Cast once here, or autocast casts again for every product that reads it.
            return normed.to(torch.get_autocast_dtype(device))
        return normed.to(x.dtype)


def _linear(inputs: int, outputs: int, *, bias: bool = False) -> nn.Linear:
    """A layer for ``init_weights`` to fill: torch's own start moves the global random state."""
    return cast("nn.Linear", nn.utils.skip_init(nn.Linear, inputs, outputs, bias=bias))


def _joint_linear(x: Tensor, *layers: nn.Linear) -> Tensor:
    """The outputs of ``layers`` side by side."""
    weights: list[Tensor] = [layer.weight for layer in layers]
    biases: list[Tensor] = [
        layer.bias
        for layer in layers
        if layer.bias is not None  # pyright: ignore[reportUnnecessaryComparison]  torch hides it
    ]
    return F.linear(x, torch.cat(weights), torch.cat(biases) if biases else None)
