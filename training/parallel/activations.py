"""What one layer of the native decoder keeps for its backward pass, in bytes. Needs no torch.

Counted off ``training.decoder.layers`` operation by operation, and checked against the allocator by
``tests/benchmarks/bench_memory.py``; who changes what the decoder computes changes it here too.

Letters: N = B * T positions of a micro batch, C ``hidden_size``, H query heads, K key and value
heads, D width of a head, I ``intermediate_size``.
"""

from dataclasses import dataclass
from typing import Literal

from training.chunks import rows_in_float32, rows_per_chunk
from training.decoder.config import ModelConfig
from training.decoder.tiles import LONGEST_TILED_ROW, SCORES_AT_ONCE, has_tiles

_WIDE = 4
"""Bytes of a number of the residual stream, of norms, of rotated heads: float32 always."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """One micro batch on one worker."""

    rows: int
    """B."""
    seq_len: int
    """T."""
    narrow: Literal[2, 4]
    """Bytes of what a matrix product reads and writes: 2 under bf16 autocast."""
    device: Literal["cpu", "cuda"]
    tensor_parallel: int = 1
    """Workers that share heads and ``intermediate_size``."""

    @property
    def tokens(self) -> int:
        """N."""
        return self.rows * self.seq_len


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerBytes:
    """One layer's forward and backward pass."""

    input: int
    """The residual stream at its door, which full checkpointing keeps."""
    products: int
    """Outputs of matrix products and of attention, which selective checkpointing keeps too."""
    attention: int
    """Kept by norm and attention when nothing is computed again, the input included."""
    feed_forward: int
    """Kept by norm and SwiGLU when nothing is computed again, their input included."""
    weight_copies: int
    """Weights in the precision of the products, kept with them."""
    cached_copies: int
    """Of those, the ones that autocast holds until the forward pass is over, whatever is computed
    again."""
    attention_scratch: int
    """Gradients under way in the backward pass of attention."""
    feed_forward_scratch: int
    """Gradients under way in the backward pass of the SwiGLU."""

    @property
    def kept(self) -> int:
        """All that the forward pass leaves when nothing is computed again."""
        return self.attention + self.feed_forward + self.weight_copies


def layer_bytes(config: ModelConfig, shape: Shape) -> LayerBytes:
    """The bytes of one layer."""
    tokens, narrow = shape.tokens, shape.narrow
    width = config.hidden_size
    ways = shape.tensor_parallel
    queries = config.num_heads * config.head_width // ways
    keys = config.num_kv_heads * config.head_width // ways
    inner = config.intermediate_size // ways
    is_narrow = config.norm_position == "after" and shape.device == "cpu"
    norm = _norm_bytes(shape, width, narrow if is_narrow else _WIDE)
    heads = _attention_bytes(config, shape)
    products = narrow * tokens * (queries + 2 * keys + width + 2 * inner + width)
    products += _WIDE * tokens * queries + _log_sums(config, shape)
    cast_matrices = queries * width + 3 * width * inner
    joint = width * (queries + 2 * keys)
    copied = narrow < _WIDE
    # What norms hand to the products: a cast copy of bf16, and in float32 the very tensor.
    handed = narrow * tokens * width
    feed_forward = norm + handed + 4 * narrow * tokens * inner
    if config.norm_position == "after" and copied:
        # Both products cast the wide residual stream, each for itself.
        feed_forward += handed
    return LayerBytes(
        input=_WIDE * tokens * width,
        products=products,
        attention=norm + handed + heads,
        feed_forward=feed_forward,
        weight_copies=narrow * joint + (narrow * cast_matrices if copied else 0),
        cached_copies=narrow * cast_matrices if copied else 0,
        attention_scratch=(
            _WIDE * tokens * width + _attention_scratch(config, shape) + (narrow + _WIDE) * joint
        ),
        # Of the product's three gradients one takes the place of what the forward pass had kept.
        feed_forward_scratch=(
            _WIDE * tokens * width + 2 * narrow * tokens * inner + (narrow + _WIDE) * width * inner
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """A model, as far as memory goes."""

    num_layers: int
    parameters: int
    """Trainable numbers; a tied table counts once."""
    layer_parameters: int
    """Of one layer."""
    root_parameters: int
    """Of what is in no layer."""
    table: int
    """Numbers of the output layer."""
    is_tied: bool
    layer: LayerBytes
    shared: int
    """Bytes that all layers read: rotary tables, masks, the tokens."""
    head: int
    """Bytes between the last layer and the loss."""
    loss: int
    """Bytes of the loss, at the most."""
    loss_gradients: int
    """Bytes of its gradients when the backward pass begins."""


def native_sizes(config: ModelConfig, shape: Shape) -> Sizes:
    """The decoder of ``training.decoder.model``, over batches of ``shape``."""
    width, ways = config.hidden_size, shape.tensor_parallel
    table = config.vocab_size * width
    of_layer = _layer_parameters(config)
    root = table * (1 if config.tie_embeddings else 2) + width
    hidden = shape.narrow * shape.tokens * width
    masks = len({config.window_of(layer) for layer in range(config.num_layers)})
    tables = 2 * _WIDE * shape.tokens * config.head_width
    return Sizes(
        num_layers=config.num_layers,
        parameters=config.num_layers * of_layer + root,
        layer_parameters=of_layer,
        root_parameters=root,
        table=table,
        is_tied=config.tie_embeddings,
        layer=layer_bytes(config, shape),
        shared=tables + (masks * shape.seq_len + 2 * 8) * shape.tokens,
        head=_norm_bytes(shape, width) + hidden,
        loss=hidden + _loss_bytes(config, shape),
        loss_gradients=2 * (hidden + _WIDE * table // ways),
    )


def _layer_parameters(config: ModelConfig) -> int:
    """Numbers of one layer."""
    width, inner = config.hidden_size, config.intermediate_size
    queries = config.num_heads * config.head_width
    keys = config.num_kv_heads * config.head_width
    numbers = 2 * width * queries + 2 * width * keys + 3 * width * inner + 2 * width
    numbers += (queries + 2 * keys) * config.qkv_bias + width * config.output_bias
    numbers += (2 * inner + width) * config.mlp_bias
    if config.qk_norm == "head":
        return numbers + 2 * config.head_width
    return numbers + (queries + keys if config.qk_norm == "width" else 0)


def _loss_bytes(config: ModelConfig, shape: Shape) -> int:
    """What ``training.cross_entropy`` holds at once, the gradient of the output layer included."""
    narrow, is_cast = shape.narrow, shape.narrow < _WIDE
    vocab_size = config.vocab_size // shape.tensor_parallel
    table = vocab_size * config.hidden_size
    rows = min(shape.tokens, rows_per_chunk(vocab_size, shape.device))
    softmax = float32_bytes(rows, vocab_size, shape)
    # The product, and what it is cast to on its way into the sum.
    summing = table * (narrow + (_WIDE if is_cast else 0))
    always = rows * vocab_size * narrow + (table * narrow if is_cast else 0)
    if rows == shape.tokens:
        return always + max(softmax, summing)
    # The sum, and of the chunk before its product, until the next one has taken its name.
    return always + table * _WIDE + max(softmax + table * narrow, summing, 2 * table * narrow)


def float32_bytes(rows: int, vocab_size: int, shape: Shape) -> int:
    """Of the ``rows`` of logits, what ``training.cross_entropy`` has in float32 at once."""
    at_once = rows_in_float32(vocab_size, shape.device)
    # Logits and probabilities, while the name of the latter still holds those of before.
    copies = 1 + (shape.narrow < _WIDE) + (at_once < rows)
    return _WIDE * copies * min(rows, at_once) * vocab_size


def _norm_bytes(shape: Shape, width: int, number: int = _WIDE) -> int:
    """An RMSNorm: its input of ``number`` bytes each, and a number a position."""
    return shape.tokens * (number * width + _WIDE)


def _attention_bytes(config: ModelConfig, shape: Shape) -> int:
    """From the joint product to the output layer's input."""
    ways, tokens = shape.tensor_parallel, shape.tokens
    queries = config.num_heads * config.head_width // ways
    keys = config.num_kv_heads * config.head_width // ways
    number = _attention_number(shape)
    in_place = shape.narrow == number
    normed = 0
    if config.qk_norm is not None:
        vectors = config.num_heads + config.num_kv_heads if config.qk_norm == "head" else 2
        # A GPU's kernel is handed a wide copy; on a processor the norm keeps what it is handed.
        wide_copy = queries + keys if shape.device == "cuda" else 0
        normed = _WIDE * tokens * (wide_copy + vectors)
    # Where nothing is cast the values are a part of the joint product, which stays as a whole.
    stays_joint = config.qk_norm is None or shape.device == "cpu"
    values = queries + 2 * keys if in_place and stays_joint else keys
    kept = number * tokens * (queries + keys + values + queries) + _log_sums(config, shape)
    if not in_place:
        kept += shape.narrow * tokens * queries
        kept += shape.narrow * tokens * (queries + 2 * keys) * (normed > 0)
    # torch's attention turns the mask of bits into numbers, each layer for itself.
    masked = 0 if _is_tiled(shape) else number * shape.rows * shape.seq_len**2
    return kept + normed + masked


def _attention_number(shape: Shape) -> int:
    """Bytes of what attention multiplies, see ``training.decoder.attention``."""
    return _WIDE if shape.device == "cpu" and not has_tiles() else shape.narrow


def _is_tiled(shape: Shape) -> bool:
    is_cast = shape.device == "cpu" and shape.narrow < _WIDE
    return is_cast and has_tiles() and shape.seq_len <= LONGEST_TILED_ROW


def _attention_scratch(config: ModelConfig, shape: Shape) -> int:
    """Gradients under way in the backward pass of attention proper."""
    ways, tokens = shape.tensor_parallel, shape.tokens
    queries = config.num_heads * config.head_width // ways
    keys = config.num_kv_heads * config.head_width // ways
    if not _is_tiled(shape):
        return _WIDE * tokens * (queries + 2 * (queries + keys))
    of_row = config.num_heads // ways * shape.seq_len**2
    rows = min(shape.rows, max(1, SCORES_AT_ONCE // of_row))
    # Scores, their gradients, the mask, and of the rows wide copies of what is multiplied and comes
    # of it.
    at_once = rows * (2 * of_row + shape.seq_len * (shape.seq_len + 4 * (queries + keys)))
    return _WIDE * (tokens * (queries + 2 * keys) + at_once) + shape.narrow * tokens * queries


def _log_sums(config: ModelConfig, shape: Shape) -> int:
    return _WIDE * shape.tokens * config.num_heads // shape.tensor_parallel
