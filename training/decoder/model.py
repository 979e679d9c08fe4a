"""The native decoder, with parameters named as on the Hugging Face hub.

A transformer with RMSNorm, rotary positions, grouped-query attention and SwiGLU (Touvron et al.
2023, arXiv:2302.13971), with what the families of ``training.decoder.families`` add: biases, norms
of queries and keys or of a block's output, sliding windows, tied embeddings. A state dict of ours
loads into the class that transformers has for the family and back without renaming; with tied
embeddings there is no ``lm_head``, as in their files.

Shapes: B rows, T positions, C ``hidden_size``, V ``vocab_size``.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.config import ModelConfig
from training.cross_entropy import chunks_of, nats_of_targets, summed_nats
from training.decoder.attention import attention_mask, positions_of, rotary_tables, tree_mask
from training.decoder.layers import (
    Embedding,
    KeyValues,
    Linear,
    PostNormLayer,
    PreNormLayer,
    RMSNorm,
)
from training.decoder.packed import PackedDecoder, can_pack
from training.decoder.sharding import fill
from training.trees import LogitsOfTrees, Trees


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
    masked, and in a layer with a sliding window as many keys as the window has.
    """
    table = 0 if config.tie_embeddings else config.vocab_size * config.hidden_size
    windows = [config.window_of(layer) or seq_len for layer in range(config.num_layers)]
    keys = sum(min(window, seq_len) for window in windows)
    attention = config.num_heads * config.head_width * keys
    return 6 * (num_parameters(config) - table) + 12 * attention


class Decoder(nn.Module):
    """A causal language model, ready to train once constructed; works on the meta device too.

    Args:
        config: Architecture.
        seed: Of the weights; None leaves the memory as it is, for a caller who fills it.
    """

    def __init__(self, config: ModelConfig, *, seed: int | None = 0) -> None:
        super().__init__()
        self.config = config
        self.model = _Backbone(config)
        self.lm_head = (
            None
            if config.tie_embeddings
            else Linear(config.hidden_size, config.vocab_size, bias=False)
        )
        if seed is not None:
            self.init_weights(seed)

    def forward(
        self, tokens: Tensor, segments: Tensor | None = None, *, targets: Tensor | None = None
    ) -> Tensor:
        """Logits ``[B, T, V]``, or the summed loss when ``targets`` are given.

        Args:
            tokens: ``int64[B, T]``.
            segments: ``int64[B, T]``, see ``training.decoder.attention.segments_of``. Attention
                stays inside a segment and positions restart with it. None: each row is one segment.
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

    def summed_nats(
        self, tokens: Tensor, segments: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Sum of the targets' nats, a float32 scalar with gradients, and its terms, ``[B * T]``."""
        hidden_BTC = self.forward_hidden(tokens, segments)
        return summed_nats(hidden_BTC.flatten(0, 1), self.output_weight, targets.flatten())

    def nats_of_targets(self, tokens: Tensor, segments: Tensor, targets: Tensor) -> Tensor:
        """Nats of each target, ``float32[B * T]``, without gradients; 0 where there is none."""
        hidden_BTC = self.forward_hidden(tokens, segments)
        return nats_of_targets(hidden_BTC.flatten(0, 1), self.output_weight, targets.flatten())

    def next_logits(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Logits ``float32[B, V]`` of the token after the first ``lengths`` (``int64[B]``)."""
        hidden_BTC = self.forward_hidden(tokens)
        last_BC = hidden_BTC[torch.arange(len(tokens), device=tokens.device), lengths - 1]
        return F.linear(last_BC, self.output_weight).float()

    def logits_of_trees(self) -> LogitsOfTrees:
        """For scoring with the weights of now, see ``CausalModel``."""
        return PackedDecoder(self).logits if can_pack(self) else self._logits_of_trees

    @torch.no_grad()
    def _logits_of_trees(self, trees: Trees) -> Iterator[tuple[slice, Tensor]]:
        hidden_NC = self.model.of_trees(trees).flatten(0, 1)[trees.at]
        for hidden, weight_VC, rows, logits_NV in chunks_of(hidden_NC, self.output_weight):
            torch.mm(hidden[rows], weight_VC.T, out=logits_NV)
            yield rows, logits_NV

    def flops_per_token(self, seq_len: int) -> int:
        """Floating-point operations to train on one token."""
        return flops_per_token(self.config, seq_len)

    @property
    def takes_trees(self) -> bool:
        """True."""
        return True

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.output_weight.device

    @property
    def output_weight(self) -> Tensor:
        """The output layer ``[V, C]``; the embedding itself when they are tied."""
        return self.model.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    @torch.no_grad()
    def init_weights(self, seed: int) -> None:
        """Draw all weights anew, from ``seed`` alone: matrices normal, norms 1, biases 0.

        Drawn on the processor in the order of ``named_parameters``, so that neither the device nor
        sharding changes anything and the global random state is neither read nor moved. On the
        meta device nothing happens.
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
                fill(parameter, drawn)

    def materialise(self, device: torch.device | str, seed: int) -> None:
        """Give a decoder that was built on the meta device its memory and its weights.

        They have the bits of ``Decoder(config, seed=seed)``. With FSDP2: build on meta, shard, then
        call this on every rank; each holds its shard and, for a moment, one whole tensor.
        """
        self.to_empty(device=device)
        self.init_weights(seed)


class _Backbone(nn.Module):
    """Everything but the output layer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.windows = [config.window_of(layer) for layer in range(config.num_layers)]
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        layer = PreNormLayer if config.norm_position == "before" else PostNormLayer
        self.layers = nn.ModuleList(layer(config) for _ in self.windows)
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, tokens: Tensor, segments: Tensor | None) -> Tensor:
        # Once a forward, not once a layer.
        masks = {window: attention_mask(tokens, segments, window) for window in set(self.windows)}
        if segments is None:
            positions = torch.arange(tokens.shape[1], device=tokens.device)
        else:
            positions = positions_of(segments)
        return self._layered(tokens, positions, masks)

    def of_trees(self, trees: Trees) -> Tensor:
        """``[B, T, C]`` of rows that are trees."""
        if trees.ends is None:
            return self(trees.tokens, None)
        queries = torch.arange(trees.tokens.shape[1], device=trees.tokens.device)[None]
        masks = {
            window: tree_mask(trees.positions, trees.ends, queries, window)
            for window in set(self.windows)
        }
        return self._layered(trees.tokens, trees.positions, masks)

    def after_past(
        self, tokens: Tensor, positions: Tensor, seen: Tensor, past: Sequence[KeyValues]
    ) -> Tensor:
        """``[B, n, C]`` of the tokens that follow what ``past`` has read.

        Args:
            tokens: ``int64[B, n]``.
            positions: Of these and of all before them, ``int64[B, read + n]``.
            seen: ``bool[B, n, read + n]``, but for sliding windows.
            past: Of each layer; grows.
        """
        own_Bn = positions[:, -tokens.shape[1] :]
        distance_BnT = own_Bn[:, :, None] - positions[:, None, :]
        masks = {
            window: (seen if window is None else seen & (distance_BnT < window))[:, None]
            for window in set(self.windows)
        }
        return self._layered(tokens, own_Bn, masks, past)

    def _layered(
        self,
        tokens: Tensor,
        positions: Tensor,
        masks: Mapping[int | None, Tensor | None],
        past: Sequence[KeyValues] | None = None,
    ) -> Tensor:
        tables = rotary_tables(
            positions,
            head_dim=self.config.head_width,
            theta=self.config.rope_theta,
            scaling=self.config.rope_scaling,
        )
        x_BTC = self.embed_tokens(tokens)
        for number, (layer, window) in enumerate(zip(self.layers, self.windows, strict=True)):
            x_BTC = layer(x_BTC, tables, masks[window], None if past is None else past[number])
        return self.norm(x_BTC)
