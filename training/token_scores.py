"""Token by token, what a model makes of passages: losses, how sure it was, and whether rightly.

For samples: where whole logits are wanted. Holdouts are scored by ``training.evaluate``.

Shapes: B passages, T positions, V vocabulary, N targets of a passage.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.causal_model import CausalModel

_LOGITS_PER_PASS = 32_000_000
"""128 MiB in float32, whatever the vocabulary."""


@dataclass(frozen=True, slots=True, eq=False)
class TokenScores:
    """One passage."""

    nats: NDArray[np.float64]
    """``[N]``, -log p of every token but the first."""
    confidence: NDArray[np.float64]
    """``[N]``, the probability of the likeliest token."""
    is_right: NDArray[np.bool_]
    """``[N]``, whether the likeliest token came."""


@torch.inference_mode()
def score_tokens(model: CausalModel, passages: Sequence[NDArray[np.int64]]) -> list[TokenScores]:
    """Score every token of ``passages`` but the first, in their order.

    How passages are put together is a function of their lengths and the vocabulary alone, so the
    same model gives the same bits. What is not a finite number is NaN.

    Args:
        model: Its device is used.
        passages: Token ids ``int64[N + 1]``, at least two each.
    """
    longest = max((len(tokens) - 1 for tokens in passages), default=1)
    rows = max(1, _LOGITS_PER_PASS // (longest * model.config.vocab_size))
    scores: list[TokenScores] = []
    for first in range(0, len(passages), rows):
        scores += _score(model, passages[first : first + rows])
    return scores


def _score(model: CausalModel, passages: Sequence[NDArray[np.int64]]) -> list[TokenScores]:
    tokens_BT = torch.zeros(len(passages), max(map(len, passages)), dtype=torch.int64)
    for row, tokens in enumerate(passages):
        tokens_BT[row, : len(tokens)] = torch.from_numpy(tokens)
    tokens_BT = tokens_BT.to(model.device)
    # Padded on the right, where causal attention never looks from a real token: no mask is needed.
    logits_BTV: Tensor = model(tokens_BT[:, :-1]).float()
    targets_BT = tokens_BT[:, 1:]
    log_z_BT = logits_BTV.logsumexp(dim=-1)
    nats_BT = log_z_BT - logits_BTV.gather(2, targets_BT[..., None]).squeeze(2)
    top_BT, chosen_BT = logits_BTV.max(dim=-1)
    columns = (nats_BT.double(), (top_BT - log_z_BT).exp().double(), chosen_BT == targets_BT)
    nats, confidence, right = (column.cpu().numpy() for column in columns)
    lengths = [len(tokens) - 1 for tokens in passages]
    return [
        TokenScores(nats[row, :length], confidence[row, :length], right[row, :length])
        for row, length in enumerate(lengths)
    ]
