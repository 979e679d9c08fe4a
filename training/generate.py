"""Continue prompts, for checks and small services; not a fast server."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from training.causal_model import CausalModel
from training.decoder.growing import GrowingRows
from training.decoder.model import Decoder


@torch.inference_mode()
def generate(
    model: CausalModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    end_id: int,
    temperature: float = 0.0,
    seed: int = 0,
    is_complete: Callable[[list[int]], bool] | None = None,
) -> list[list[int]]:
    """Continuations of ``prompts``, in their order, without prompt and without ``end_id``.

    The native decoder keeps the keys and values of what it has read; others compute every prefix
    again.

    Args:
        model: Its device is used.
        prompts: Token ids, at least one each; as in training the first should be the tokenizer's
            start token.
        max_new_tokens: Where a continuation is cut off.
        end_id: Token that ends a document, and a continuation with it.
        temperature: 0 takes the likeliest token; above, tokens are drawn from ``softmax(logits /
            temperature)``.
        seed: Of the draws. Same prompts and seed, same continuations.
        is_complete: Asked after every token with all of a continuation: whether to end it here.

    Raises:
        ValueError: A prompt is empty or the temperature negative.
    """
    empty = [number for number, prompt in enumerate(prompts) if not prompt]
    if empty:
        raise ValueError(f"prompt {empty[0]} is empty: give at least the tokenizer's start token")
    if temperature < 0:
        raise ValueError(f"temperature must be 0 or above, got {temperature:g}")
    generator = torch.Generator("cpu").manual_seed(seed)
    written: list[list[int]] = [[] for _ in prompts]
    active = list(range(len(prompts)))
    rows = _rows_of(model, prompts, max_new_tokens) if max_new_tokens and prompts else None
    for step in range(max_new_tokens):
        if rows is None or not active:
            break
        chosen = _choose(rows.logits().cpu(), temperature, generator)
        going_on: list[int] = []
        for row, (number, token) in enumerate(zip(active, chosen, strict=True)):
            if token != end_id:
                written[number].append(token)
                if is_complete is None or not is_complete(written[number]):
                    going_on.append(row)
        active = [active[row] for row in going_on]
        if active and step + 1 < max_new_tokens:
            rows.grow(going_on, [chosen[row] for row in going_on])
    return written


class _ReadAgain:
    """Rows that grow by a token at a time and are computed anew each time."""

    def __init__(self, model: CausalModel, prompts: Sequence[Sequence[int]]) -> None:
        self._model = model
        self._rows = [list(prompt) for prompt in prompts]

    def logits(self) -> Tensor:
        """``float32[B, V]`` of the token after each row."""
        lengths = torch.tensor([len(row) for row in self._rows])
        padded_BT = torch.zeros(len(self._rows), int(lengths.max()), dtype=torch.int64)
        for padded, row in zip(padded_BT, self._rows, strict=True):
            padded[: len(row)] = torch.tensor(row)
        # Padded on the right, where causal attention never looks from a real token.
        device = self._model.device
        return self._model.next_logits(padded_BT.to(device), lengths.to(device))

    def grow(self, kept: list[int], tokens: list[int]) -> None:
        """Forget all rows but the ``kept`` ones, each of which gets one of the ``tokens``."""
        self._rows = [[*self._rows[row], token] for row, token in zip(kept, tokens, strict=True)]


def _rows_of(
    model: CausalModel, prompts: Sequence[Sequence[int]], max_new_tokens: int
) -> GrowingRows | _ReadAgain:
    if isinstance(model, Decoder):
        return GrowingRows(model, prompts, max_new_tokens)
    return _ReadAgain(model, prompts)


def _choose(logits_BV: Tensor, temperature: float, generator: torch.Generator) -> list[int]:
    if temperature == 0:
        return logits_BV.argmax(dim=-1).tolist()
    probabilities_BV = (logits_BV / temperature).softmax(dim=-1)
    return torch.multinomial(probabilities_BV, 1, generator=generator).squeeze(1).tolist()
