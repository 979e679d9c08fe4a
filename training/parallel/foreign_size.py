"""The size of a model that transformers computes, read off its config.json. Needs no torch.

Rougher than for the native decoder, because what a family computes is known to transformers alone.
Weights are those of a plain transformer of the configured widths. A layer keeps the inputs of its
norms and products and of what lies between them: 34 bytes of a number of the residual stream in 16
bits with a feed-forward block of four times its width, and the scores where attention writes them
out (Korthikanti et al. 2022, arXiv:2205.05198, section 4); here by the widths that there are,
without masks of dropout, which never acts, and with the norms in 32 bits.
"""

import json
from typing import Any

from training.config import ForeignConfig
from training.foreign.config import needs_eager_attention
from training.parallel.activations import LayerBytes, Shape, Sizes, float32_bytes

_WIDE = 4
_SPELLINGS = {
    "width": ("hidden_size", "n_embd", "d_model"),
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "heads": ("num_attention_heads", "n_head", "n_heads"),
    "key heads": ("num_key_value_heads", "num_kv_heads", "n_head_kv"),
    "inner": ("intermediate_size", "ffn_dim", "n_inner"),
}
_KEPT_BY_ACTIVATION = {"relu": 1, "gelu_new": 5, "gelu_fast": 5}
"""Tensors as wide as the feed-forward block; 2 where a kernel keeps its input."""
_PLACED_WITHOUT_TABLE = ("rope", "rotary", "alibi")
"""In the name of a field where positions have no weights of their own."""


def foreign_sizes(model: ForeignConfig, shape: Shape) -> Sizes:
    """The model over batches of ``shape``.

    Raises:
        ValueError: Its config.json says neither how wide nor how deep it is.
    """
    fields = json.loads(model.fields)
    width, layers = _needed(fields, "width"), _needed(fields, "layers")
    heads = _found(fields, "heads") or 1
    head = fields.get("head_dim") or width // heads
    keys = (_found(fields, "key heads") or heads) * head
    inner = _found(fields, "inner") or 4 * width
    is_gated = _activation(fields) == "silu" or model.model_type.startswith("gemma")
    matrices = 3 if is_gated else 2
    of_layer = 2 * width * (heads * head + keys) + matrices * width * inner + 4 * width
    table = model.vocab_size * width
    is_tied = bool(fields.get("tie_word_embeddings", True))
    narrow, tokens = shape.narrow, shape.tokens
    # LayerNorm is one kernel that keeps its input, RMSNorm the steps in which a family spells it.
    norm = (4 if "rms_norm_eps" in fields else 1) * _WIDE * tokens * width
    scores = 0
    if needs_eager_attention(fields):
        scores = 2 * (narrow + _WIDE) * heads * shape.rows * shape.seq_len**2
    copies = narrow * (of_layer - 4 * width) if narrow < _WIDE else 0
    attention = norm + narrow * tokens * (2 * width + 2 * heads * head + 2 * keys) + scores
    between = 4 if is_gated else _KEPT_BY_ACTIVATION.get(_activation(fields), 2)
    feed_forward = norm + narrow * tokens * (width + between * inner)
    logits = tokens * model.vocab_size
    wide_logits = float32_bytes(tokens, model.vocab_size, shape)
    root = table * (1 if is_tied else 2) + width
    if not any(mark in name for name in fields for mark in _PLACED_WITHOUT_TABLE):
        root += model.max_position_embeddings * width
    return Sizes(
        num_layers=layers,
        parameters=layers * of_layer + root,
        layer_parameters=of_layer,
        root_parameters=root,
        table=table,
        is_tied=is_tied,
        layer=LayerBytes(
            input=_WIDE * tokens * width,
            products=narrow
            * tokens
            * (2 * heads * head + 2 * keys + 2 * width + (matrices - 1) * inner),
            attention=attention,
            feed_forward=feed_forward,
            weight_copies=copies,
            cached_copies=copies,
            attention_scratch=_WIDE * tokens * (width + heads * head) + 2 * scores,
            feed_forward_scratch=_WIDE * tokens * width + 2 * narrow * tokens * inner,
        ),
        shared=2 * 8 * tokens,
        head=norm + narrow * tokens * width,
        loss=2 * narrow * logits + wide_logits + (narrow * table if narrow < _WIDE else 0),
        loss_gradients=2 * narrow * logits + (narrow * table if narrow < _WIDE else 0),
    )


def _activation(fields: dict[str, Any]) -> str:
    names = ("hidden_act", "activation_function", "activation", "hidden_activation")
    return next((fields[name] for name in names if fields.get(name)), "gelu")


def _found(fields: dict[str, Any], what: str) -> int | None:
    values = (fields.get(name) for name in _SPELLINGS[what])
    return next((value for value in values if isinstance(value, int)), None)


def _needed(fields: dict[str, Any], what: str) -> int:
    value = _found(fields, what)
    if value is None:
        raise ValueError(
            f"the memory of a {fields.get('model_type')} model cannot be estimated, because its "
            f"config.json has none of {', '.join(_SPELLINGS[what])}: set parallel.strategy and "
            "parallel.activation_checkpointing instead of auto"
        )
    return value
