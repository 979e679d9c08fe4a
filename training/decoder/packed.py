"""The decoder's logits on processors, for scoring: no gradients, weights laid out once.

oneDNN multiplies with weights that it has laid out for itself a tenth to a third faster than a
plain product does, and adds, multiplies and applies SiLU before the result leaves the processor's
registers. What pads a row is seen by attention alone, and the last layer is computed only for
tokens after which something is predicted.

Shapes: B rows, T positions, N tokens that are no padding, M of them after which something is
predicted, Q the most of these in a row, C ``hidden_size``, V vocabulary.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from training.decoder.attention import attend, rotary_tables, rotate, tree_mask
from training.decoder.config import ModelConfig
from training.decoder.layers import Attention, PreNormLayer, RMSNorm, SwiGLU, normed_heads
from training.trees import Trees

_MOST_WEIGHTS = 2**29
"""That are laid out anew, and so are in memory twice: 2 GiB."""
_USUAL_ROWS = 512
"""Of a product; the layout hardly depends on it."""
_LOGITS_AT_ONCE = 2**22
"""16 MiB, which malloc keeps for the next; products of fewer rows are slower."""
_mkldnn: Any = torch.ops.mkldnn


def can_pack(model: nn.Module) -> bool:
    """Whether ``PackedDecoder`` is for this decoder, as it is now."""
    weights = list(model.parameters())
    is_plain = all(
        # Not a shard of a weight.
        type(weight) is nn.Parameter
        and weight.device.type == "cpu"
        and weight.dtype == torch.float32
        for weight in weights
    )
    is_small = sum(weight.numel() for weight in weights) <= _MOST_WEIGHTS
    is_float32 = not torch.is_autocast_enabled("cpu")
    return is_plain and is_small and is_float32 and torch.backends.mkldnn.is_available()


class PackedDecoder:
    """A copy of a decoder's weights, laid out for scoring.

    Args:
        model: A ``training.decoder.model.Decoder`` for which ``can_pack`` holds.
    """

    @torch.no_grad()
    def __init__(self, model: Any) -> None:
        self._config: ModelConfig = model.config
        self._windows: list[int | None] = model.model.windows
        self._embedding: Tensor = model.model.embed_tokens.weight
        self._layers = [_PackedLayer(layer) for layer in model.model.layers]
        self._norm: RMSNorm = model.model.norm
        self._output = _PackedLinear((model.output_weight, None))

    @torch.no_grad()
    def logits(self, trees: Trees) -> Iterator[tuple[slice, Tensor]]:
        """See ``training.trees.LogitsOfTrees``."""
        batch = _Batch(trees, self._config)
        x_NC = self._embedding[batch.tokens]
        for layer, window in zip(self._layers[:-1], self._windows[:-1], strict=True):
            x_NC = layer(x_NC, batch.keys, batch.all_queries(window))
        x_MC = self._layers[-1](x_NC, batch.keys, batch.last_queries(self._windows[-1]))
        hidden_MC = self._norm(x_MC)
        most = max(1, _LOGITS_AT_ONCE // self._config.vocab_size)
        for first in range(0, len(hidden_MC), most):
            part = slice(first, min(first + most, len(hidden_MC)))
            yield part, self._output(hidden_MC[part])


class _PackedLinear:
    """Linear layers of the same input as one."""

    def __init__(self, *layers: tuple[Tensor, Tensor | None]) -> None:
        weights = [weight.detach() for weight, _ in layers]
        weight = torch.cat(weights) if len(weights) > 1 else weights[0]
        biases = [bias for _, bias in layers if bias is not None]
        self._bias = torch.cat(biases) if biases else None
        self._weight = _mkldnn._reorder_linear_weight(weight, _USUAL_ROWS)

    def __call__(self, x: Tensor, then: str = "none") -> Tensor:
        """The result, or ``then`` (``swish`` is SiLU) of it."""
        return _mkldnn._linear_pointwise(x, self._weight, self._bias, then, [], "")

    def joined(self, x: Tensor, other: Tensor, how: str) -> Tensor:
        """The result plus (``add``) or times (``mul``) ``other``."""
        return _mkldnn._linear_pointwise.binary(x, other, self._weight, self._bias, how)


def _packed(*layers: Any) -> _PackedLinear:
    return _PackedLinear(*((layer.weight, layer.bias) for layer in layers))


class _Places(NamedTuple):
    """Where tokens that lie one after the other stand in padded rows."""

    rows: int
    length: int
    slots: Tensor | None
    """``int64[N]`` among ``rows * length``; None: all of them, in order."""
    tables: tuple[Tensor, Tensor]
    """Of rotary positions, for the padded rows."""

    def padded(self, x_NX: Tensor, num_heads: int) -> Tensor:
        """``[B, T, heads, D]`` of ``[N, heads * D]``."""
        if self.slots is not None:
            x_NX = x_NX.new_zeros(self.rows * self.length, x_NX.shape[-1]).index_copy_(
                0, self.slots, x_NX
            )
        return x_NX.view(self.rows, self.length, num_heads, -1)

    def flat(self, x_BTX: Tensor) -> Tensor:
        """``[N, X]`` of ``[B, T, X]``."""
        x = x_BTX.flatten(0, 1)
        return x if self.slots is None else x[self.slots]


class _Queries(NamedTuple):
    """Which tokens attend, and to what."""

    at: Tensor | None
    """``int64[M]`` among the N tokens of the batch; None: all."""
    places: _Places
    bias: Tensor | None
    """``float32[B, 1, Q - trunk, T]`` that is added to the scores; None is plain causal
    attention."""
    trunk: int = 0
    """So many of the first are a single path in every row, for which attention is plainly causal:
    half as many pairs as with a bias."""


class _Batch:
    """The geometry of a batch: once a batch, not once a layer."""

    def __init__(self, trees: Trees, config: ModelConfig) -> None:
        self._config = config
        self._trees = trees
        rows, length = trees.tokens.shape
        index_T = torch.arange(length)
        self._positions = index_T.expand(rows, -1) if trees.ends is None else trees.positions
        is_real = (index_T < trees.lengths[:, None]).flatten()
        slots = None if bool(is_real.all()) else is_real.nonzero().squeeze(1)
        tables = self._tables(index_T if trees.ends is None else trees.positions)
        self.keys = _Places(rows, length, slots, tables)
        self.tokens = trees.tokens.flatten() if slots is None else trees.tokens.flatten()[slots]
        self._all_queries: dict[int | None, _Queries] = {}

    def all_queries(self, window: int | None) -> _Queries:
        """Every token attends."""
        if window not in self._all_queries:
            length = self.keys.length
            ends = self._trees.ends
            # Nothing branches before the first subtree ends.
            trunk = length if ends is None else int(ends.min())
            if window is not None and window < trunk:
                trunk = 0
            rest = torch.arange(trunk, length)[None]
            bias = None if trunk == length else self._bias(rest, window)
            self._all_queries[window] = _Queries(None, self.keys, bias, trunk)
        return self._all_queries[window]

    def last_queries(self, window: int | None) -> _Queries:
        """Only tokens after which something is predicted attend."""
        at, rows, length = self._trees.at, self.keys.rows, self.keys.length
        row_M = at // length
        counts_B = torch.bincount(row_M, minlength=rows)
        rank_M = torch.arange(len(at)) - (counts_B.cumsum(0) - counts_B)[row_M]
        most = int(counts_B.max())
        slots_M = row_M * most + rank_M
        queries_BQ = at.new_zeros(rows * most).index_copy_(0, slots_M, at % length).view(rows, most)
        tables = self._tables(self._positions.gather(1, queries_BQ))
        of_slot = torch.full((rows * length,), -1)
        kept = torch.arange(rows * length) if self.keys.slots is None else self.keys.slots
        of_slot[kept] = torch.arange(len(kept))
        places = _Places(rows, most, slots_M, tables)
        return _Queries(of_slot[at], places, self._bias(queries_BQ, window))

    def _tables(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        return rotary_tables(
            positions,
            head_dim=self._config.head_width,
            theta=self._config.rope_theta,
            scaling=self._config.rope_scaling,
        )

    def _bias(self, queries: Tensor, window: int | None) -> Tensor:
        ends = self._trees.ends
        if ends is None:
            ends = torch.full_like(self._trees.tokens, self.keys.length)
        seen = tree_mask(self._positions, ends, queries, window)
        return torch.zeros(seen.shape).masked_fill_(~seen, -math.inf)


class _PackedLayer:
    """A layer of either kind, see ``training.decoder.layers``."""

    def __init__(self, layer: Any) -> None:
        self._is_pre_norm = isinstance(layer, PreNormLayer)
        self._layer = layer
        attention: Attention = layer.self_attn
        mlp: SwiGLU = layer.mlp
        self._attention = attention
        self._query = _packed(attention.q_proj)
        self._key_value = _packed(attention.k_proj, attention.v_proj)
        self._output = _packed(attention.o_proj)
        self._gate, self._up, self._down = (
            _packed(linear) for linear in (mlp.gate_proj, mlp.up_proj, mlp.down_proj)
        )

    def __call__(self, x_NC: Tensor, keys: _Places, queries: _Queries) -> Tensor:
        """``[M, C]`` of ``[N, C]``: for the ``queries`` alone."""
        normed = self._layer.input_layernorm(x_NC) if self._is_pre_norm else x_NC
        num_heads, num_kv_heads, _ = self._attention.heads
        key, value = keys.padded(self._key_value(normed), 2 * num_kv_heads).chunk(2, dim=2)
        if queries.at is not None:
            x_NC, normed = x_NC[queries.at], normed[queries.at]
        query = queries.places.padded(self._query(normed), num_heads)
        if self._attention.q_norm is not None and self._attention.k_norm is not None:
            query = normed_heads(query, self._attention.q_norm)
            key = normed_heads(key, self._attention.k_norm)
        attended = _attended(
            rotate(query, queries.places.tables),
            rotate(key, keys.tables),
            value.transpose(1, 2),
            queries,
        )
        return self._after(x_NC, queries.places.flat(attended))

    def _after(self, x: Tensor, attended: Tensor) -> Tensor:
        if self._is_pre_norm:
            x = self._output.joined(attended, x, "add")
            normed = self._layer.post_attention_layernorm(x)
            return self._down.joined(self._inner(normed), x, "add")
        x = x + self._layer.post_attention_layernorm(self._output(attended))
        return x + self._layer.post_feedforward_layernorm(self._down(self._inner(x)))

    def _inner(self, x: Tensor) -> Tensor:
        return self._up.joined(x, self._gate(x, "swish"), "mul")


def _attended(query: Tensor, key: Tensor, value: Tensor, queries: _Queries) -> Tensor:
    """``[B, Q, C]``."""
    trunk = queries.trunk
    parts: list[Tensor] = []
    if trunk > 0:
        first = (query[:, :, :trunk], key[:, :, :trunk], value[:, :, :trunk])
        parts.append(attend(*first, None))
    if queries.bias is not None:
        parts.append(attend(query[:, :, trunk:], key, value, queries.bias))
    return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
