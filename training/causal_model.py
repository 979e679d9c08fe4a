"""What training, evaluation, generation and export need of a model, whoever computes it.

``training.decoder.model.Decoder`` is one, natively; ``training.foreign.model.ForeignModel`` is
another, through ``transformers``. Both are modules whose ``state_dict`` has a checkpoint's names.

Shapes: B rows, T positions, V vocabulary, N = B * T predictions.
"""

from collections.abc import Iterator
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from training.config import ForeignConfig, ModelConfig
from training.trees import LogitsOfTrees


class CausalModel(Protocol):
    """A causal language model: a token's logits depend on the tokens before it alone."""

    @property
    def config(self) -> ModelConfig | ForeignConfig:
        """Architecture; part of a plan's identity."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        ...

    def __call__(self, tokens: Tensor, segments: Tensor | None = None) -> Tensor:
        """Logits ``[B, T, V]``.

        Args:
            tokens: ``int64[B, T]``.
            segments: ``int64[B, T]``, see ``training.decoder.attention.segments_of``. Attention
                stays inside a segment and positions restart with it. None: each row is one segment.
        """
        ...

    def summed_nats(
        self, tokens: Tensor, segments: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Sum of the targets' nats, a float32 scalar with gradients, and its terms, ``float32[N]``.

        ``targets`` is ``int64[B, T]``, ``IGNORE_INDEX`` where there is none.
        """
        ...

    def nats_of_targets(self, tokens: Tensor, segments: Tensor, targets: Tensor) -> Tensor:
        """Nats of each target, ``float32[N]``, without gradients; 0 where there is none."""
        ...

    def next_logits(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Logits ``float32[B, V]`` of the token after the first ``lengths`` (``int64[B]``)."""
        ...

    @property
    def takes_trees(self) -> bool:
        """Whether a row of ``training.trees.Trees`` may be more than a single path."""
        ...

    def logits_of_trees(self) -> LogitsOfTrees:
        """What computes logits of many batches of rows, with the weights of now."""
        ...

    def flops_per_token(self, seq_len: int) -> int:
        """Floating-point operations to train on one token, as MFU is quoted in."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Weights by name, as ``nn.Module`` has it."""
        ...

    def to(self, device: str, /) -> Self:
        """The model on another device."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """All parameters, as ``nn.Module`` has it."""
        ...
