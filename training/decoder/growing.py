"""Rows of tokens that grow by one token at a time, without reading anything twice.

Shapes: B rows, T positions of the longest prompt, C ``hidden_size``, V vocabulary.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from training.decoder.layers import KeyValues
from training.decoder.model import Decoder


class GrowingRows:
    """Prompts and what is written after them; keys and values of all of it are kept.

    Args:
        model: Not to change meanwhile.
        prompts: At least one, of at least one token each.
        most_new: Tokens that a row may grow by.
    """

    def __init__(self, model: Decoder, prompts: Sequence[Sequence[int]], most_new: int) -> None:
        self._model = model
        lengths_B = torch.tensor([len(prompt) for prompt in prompts])
        length = int(lengths_B.max())
        tokens_BT = torch.zeros(len(prompts), length, dtype=torch.int64)
        for row, prompt in zip(tokens_BT, prompts, strict=True):
            row[: len(prompt)] = torch.tensor(prompt)
        self._past = [KeyValues(length + most_new) for _ in model.model.windows]
        # What is written stands after the longest prompt in all rows: what pads a shorter one is
        # never seen, and positions go on as if it were not there.
        self._positions = torch.arange(length).repeat(len(prompts), 1).to(model.device)
        self._is_real = (torch.arange(length) < lengths_B[:, None]).to(model.device)
        causal_TT = torch.ones(length, length, dtype=torch.bool, device=model.device).tril()
        hidden_BTC = model.model.after_past(
            tokens_BT.to(model.device),
            self._positions,
            causal_TT.expand(len(prompts), -1, -1),
            self._past,
        )
        self._next = lengths_B.to(model.device)
        rows_B = torch.arange(len(prompts), device=model.device)
        self._last = hidden_BTC[rows_B, self._next - 1]

    def logits(self) -> Tensor:
        """``float32[B, V]`` of the token after each row."""
        return F.linear(self._last, self._model.output_weight).float()

    def grow(self, kept: list[int], tokens: list[int]) -> None:
        """Forget all rows but the ``kept`` ones, each of which gets one of the ``tokens``."""
        device = self._model.device
        if len(kept) < len(self._next):
            rows = torch.tensor(kept, device=device)
            for past in self._past:
                past.keep(rows)
            self._positions, self._is_real = self._positions[rows], self._is_real[rows]
            self._next = self._next[rows]
        self._positions = torch.cat((self._positions, self._next[:, None]), dim=1)
        self._is_real = F.pad(self._is_real, (0, 1), value=True)
        self._next = self._next + 1
        tokens_B1 = torch.tensor(tokens, device=device)[:, None]
        self._last = self._model.model.after_past(
            tokens_B1, self._positions, self._is_real[:, None], self._past
        )[:, 0]
