"""From texts to what a model is asked: tokens that fit into its window, and how many are scored.

The rules are those of lm-evaluation-harness's Hugging Face backend (0.4), so that its numbers can
be compared with ours. One thing is ours: text is data, and what spells a special token is text.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from training.items.item import Item
from training.items.tokenizer import ItemTokenizer


class Continuation(NamedTuple):
    """A text to score and what is read before it."""

    context: str
    text: str
    tells_greedy: bool = False
    """Whether to find the tokens that the model would write in its place."""


class Window(NamedTuple):
    """Tokens of which the model reads all but the last and is scored on the last ``targets``."""

    continuation: int
    """Index of the continuation that it is of."""
    tokens: tuple[int, ...]
    targets: int
    """At least one, less than the tokens."""
    tells_greedy: bool = False
    """As of the continuation."""


def continuations_of(item: Item) -> list[Continuation]:
    """What has to be scored to know how ``item`` is answered, in the order of its choices.

    Of a generation that is the one whose nats are told.
    """
    wanted = [item.gold] if item.kind == "generation" else range(len(item.choices))
    return [
        Continuation(item.context_of(at), item.continuation_of(at), item.kind == "cloze")
        for at in wanted
    ]


def windows_of(
    continuations: Sequence[Continuation], tokenizer: ItemTokenizer, *, window_tokens: int
) -> list[Window]:
    """Windows of each continuation, in order; their targets are its tokens, each once.

    Spaces at the end of a context are moved to the continuation; both are encoded together and
    split after as many tokens as the context has alone. Without context, the tokenizer's start
    token is read. What is longer than the window loses the beginning of its context. Only a
    continuation longer than the window is scored in several windows, which overlap by one token
    but for the last, which is full.

    Args:
        continuations: With texts that are not empty.
        tokenizer: Of the model.
        window_tokens: Most tokens that the model reads at once.
    """
    pairs = [_spaces_moved(asked.context, asked.text) for asked in continuations]
    wholes = tokenizer.encode_batch([context + text for context, text in pairs])
    lengths = _encoded({context for context, _ in pairs}, tokenizer)
    windows: list[Window] = []
    for number, ((context, _), whole) in enumerate(zip(pairs, wholes, strict=True)):
        opening, scored = _split(lengths[context], whole.tolist(), tokenizer)
        if len(scored) <= window_tokens:
            tokens = (*opening, *scored)[-(window_tokens + 1) :]
            tells_greedy = continuations[number].tells_greedy
            windows.append(Window(number, tokens, len(scored), tells_greedy))
        else:
            windows += _rolling(number, (opening[-1], *scored), window_tokens)
    return windows


def prompts_of(
    contexts: Sequence[str], tokenizer: ItemTokenizer, *, most_tokens: int
) -> list[list[int]]:
    """Tokens to generate after, at least one and at most ``most_tokens``: the last ones."""
    encoded = tokenizer.encode_batch(contexts)
    openings = [_opened(tokens.tolist(), tokenizer) for tokens in encoded]
    return [opening[-most_tokens:] for opening in openings]


def _spaces_moved(context: str, text: str) -> tuple[str, str]:
    kept = context.rstrip()
    return kept, context[len(kept) :] + text


def _encoded(contexts: set[str], tokenizer: ItemTokenizer) -> dict[str, list[int]]:
    ordered = sorted(contexts)
    encoded = tokenizer.encode_batch(ordered)
    return {text: tokens.tolist() for text, tokens in zip(ordered, encoded, strict=True)}


def _split(
    context: list[int], whole: list[int], tokenizer: ItemTokenizer
) -> tuple[list[int], list[int]]:
    """What is read and what is scored, at least one token each.

    A continuation that melts into the last token of its context is scored by that token.
    """
    at = min(len(context), len(whole) - 1)
    return _opened(context[:at], tokenizer), whole[at:]


def _opened(context: list[int], tokenizer: ItemTokenizer) -> list[int]:
    return [tokenizer.start_id, *context] if tokenizer.adds_start or not context else context


def _rolling(number: int, tokens: tuple[int, ...], window_tokens: int) -> Iterator[Window]:
    """All ``tokens`` but the first, each once, with as much before it as windows allow."""
    for first in range(1, len(tokens), window_tokens):
        end = min(first + window_tokens, len(tokens))
        yield Window(number, tokens[max(0, end - window_tokens - 1) : end], end - first)
