"""Continue prompts, for health checks and small services; not a fast server."""

from collections.abc import Sequence

import torch
from torch import Tensor

from training.causal_model import CausalModel


@torch.inference_mode()
def generate(
    model: CausalModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    end_id: int,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[list[int]]:
    """Continuations of ``prompts``, in their order, without prompt and without ``end_id``.

    Every step computes the whole prefix again: no cache of keys and values, which keeps this as
    short as it is.

    Args:
        model: Its device is used.
        prompts: Token ids, at least one each; as in training the first should be the tokenizer's
            start token.
        max_new_tokens: Where a continuation is cut off.
        end_id: Token that ends a document, and a continuation with it.
        temperature: 0 takes the likeliest token; above, tokens are drawn from ``softmax(logits /
            temperature)``.
        seed: Of the draws. Same prompts and seed, same continuations.

    Raises:
        ValueError: A prompt is empty or the temperature negative.
    """
    empty = [number for number, prompt in enumerate(prompts) if not prompt]
    if empty:
        raise ValueError(f"prompt {empty[0]} is empty: give at least the tokenizer's start token")
    if temperature < 0:
        raise ValueError(f"temperature must be 0 or above, got {temperature:g}")
    generator = torch.Generator("cpu").manual_seed(seed)
    sequences = [list(prompt) for prompt in prompts]
    active = list(range(len(sequences)))
    for _ in range(max_new_tokens):
        if not active:
            break
        logits_BV = _next_logits(model, [sequences[number] for number in active])
        chosen = _choose(logits_BV, temperature, generator)
        for number, token in zip(active, chosen, strict=True):
            sequences[number].append(token)
        active = [number for number, token in zip(active, chosen, strict=True) if token != end_id]
    finished = set(range(len(sequences))) - set(active)
    return [
        tokens[len(prompt) : -1 if number in finished else None]
        for number, (tokens, prompt) in enumerate(zip(sequences, prompts, strict=True))
    ]


def _next_logits(model: CausalModel, sequences: list[list[int]]) -> Tensor:
    """Logits ``float32[B, V]`` of the token after each sequence."""
    lengths = torch.tensor([len(tokens) for tokens in sequences])
    padded_BT = torch.zeros(len(sequences), int(lengths.max()), dtype=torch.int64)
    for row, tokens in enumerate(sequences):
        padded_BT[row, : len(tokens)] = torch.tensor(tokens)
    # Padded on the right, where causal attention never looks from a real token: no mask is needed.
    return model.next_logits(padded_BT.to(model.device), lengths.to(model.device)).cpu()


def _choose(logits_BV: Tensor, temperature: float, generator: torch.Generator) -> list[int]:
    if temperature == 0:
        return logits_BV.argmax(dim=-1).tolist()
    probabilities_BV = (logits_BV / temperature).softmax(dim=-1)
    return torch.multinomial(probabilities_BV, 1, generator=generator).squeeze(1).tolist()
