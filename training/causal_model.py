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
        """Whether a row may be more than a single path, see ``tree_logits``."""
        ...

    def tree_logits(
        self, tokens: Tensor, positions: Tensor, ends: Tensor | None, at: Tensor
    ) -> Iterator[tuple[slice, Tensor]]:
        """Logits ``[n, V]`` after the tokens ``at``, without gradients, some at a time.

        A row is a tree of tokens in preorder: a token sees itself and what it descends from. What
        pads a row on the right is seen by nothing before it. The memory of a part may be that of
        the next.

        Args:
            tokens: ``int64[B, T]``.
            positions: ``int64[B, T]``, depth in the tree.
            ends: ``int64[B, T]``: the descendants of token i are the tokens from i + 1 to
                ends[i] - 1. None: each row is a single path.
            at: ``int64[M]``, indices into the rows one after the other.

        Yields:
            Which of ``at``, and their logits.
        """
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
