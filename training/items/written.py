"""What a model writes after the contexts of items, greedily, until something ends it."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Literal

import torch

from training.causal_model import CausalModel
from training.generate import generate
from training.items.item import Item
from training.items.tokenizer import ItemTokenizer
from training.items.windows import prompts_of


def texts_written(
    model: CausalModel,
    tokenizer: ItemTokenizer,
    items: Sequence[Item],
    *,
    window_tokens: int,
    batch_tokens: int,
    precision: Literal["bf16", "fp32"],
    on_progress: Callable[[int], None],
) -> list[str]:
    """Text before the first stop of each item, in order.

    A prompt that leaves no room for ``max_new_tokens`` in the window loses its beginning.

    Args:
        model: As all that follow, see ``training.items.score_items.score_items``.
        tokenizer: Its ``end_id`` ends a text.
        items: Of the kind ``generation``.
        window_tokens: Most tokens of prompt and text together.
        batch_tokens: Of prompts and texts of a batch, padded.
        precision: Of products.
        on_progress: Called after every batch with the items done.

    Raises:
        ValueError: There is no room for a prompt.
    """
    texts = [""] * len(items)
    done = 0
    device = model.device.type
    autocast = torch.autocast(device, torch.bfloat16) if precision == "bf16" else nullcontext()
    for stop, max_new_tokens, numbers in _alike(items):
        if max_new_tokens >= window_tokens:
            raise ValueError(
                f"item {items[numbers[0]].id}: max_new_tokens {max_new_tokens} leave no room for a "
                f"context in a window of {window_tokens} tokens"
            )
        contexts = [items[number].context_of(0) for number in numbers]
        prompts = prompts_of(contexts, tokenizer, most_tokens=window_tokens - max_new_tokens)

        def is_complete(tokens: list[int], stop: tuple[str, ...] = stop) -> bool:
            text = tokenizer.decode(tokens)
            return any(end in text for end in stop)

        for batch in _batches(prompts, max_new_tokens, batch_tokens):
            with autocast:
                found = generate(
                    model,
                    [prompts[index] for index in batch],
                    max_new_tokens=max_new_tokens,
                    end_id=tokenizer.end_id,
                    is_complete=is_complete,
                )
            for index, tokens in zip(batch, found, strict=True):
                texts[numbers[index]] = _before(tokenizer.decode(tokens), stop)
            done += len(batch)
            on_progress(done)
    return texts


def _alike(items: Sequence[Item]) -> Iterator[tuple[tuple[str, ...], int, list[int]]]:
    """What ends a text, after how many tokens at the latest, and indices of these items."""
    groups: dict[tuple[tuple[str, ...], int], list[int]] = defaultdict(list)
    for number, item in enumerate(items):
        groups[item.stop, item.max_new_tokens].append(number)
    for (stop, max_new_tokens), numbers in groups.items():
        yield stop, max_new_tokens, numbers


def _batches(
    prompts: Sequence[Sequence[int]], max_new_tokens: int, batch_tokens: int
) -> Iterator[list[int]]:
    """Indices of prompts of nearly one length, longest first."""
    batch: list[int] = []
    for index in sorted(range(len(prompts)), key=lambda index: -len(prompts[index])):
        longest = len(prompts[batch[0] if batch else index]) + max_new_tokens
        if batch and (len(batch) + 1) * longest > batch_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _before(text: str, stop: Sequence[str]) -> str:
    for end in stop:
        text = text.split(end, 1)[0]
    return text
