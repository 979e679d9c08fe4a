"""In-context canaries: copy, induction, ordering. They need no knowledge, only what stands before.

Skills in context go first when a model is trained on other text, while its loss on that text still
falls (Elhady et al. 2025, arXiv:2506.00288, whose own canaries ask for exact answers). Built from
words that are one token of the vocabulary, so that a sequence of words is a sequence of tokens. All
are multiple choice: the score moves before an exact answer would.
"""

import random
from collections.abc import Callable, Sequence
from itertools import permutations
from typing import TYPE_CHECKING

from tasks.evaluations.frozen import FrozenItem
from training.items.item import Item

if TYPE_CHECKING:
    from training.tokenizer import Tokenizer

VERSION = 1
"""Raise it with any change of what is asked: scores of two sets must not be compared."""
_LEAST_WORDS = 64
"""A vocabulary with fewer words has no canaries: they would repeat themselves."""
_MOST_WORDS = 4096
_COPIED = 8
_FILLED = 24
_SORTED = 3
_DEMONSTRATIONS = 4


def canary_words(tokenizer: "Tokenizer") -> list[str]:
    """Words of letters that are one token behind a space, in the order of the vocabulary."""
    skipped = {tokenizer.start_id, tokenizer.end_id}
    words: dict[str, None] = {}
    for token in range(tokenizer.vocab_size):
        word = "" if token in skipped else tokenizer.decode([token]).strip()
        if len(word) > 1 and word.isalpha() and word == word.lower():
            words[word] = None
    spelled = tokenizer.encode_batch([f" {word}" for word in words])
    single = [word for word, tokens in zip(words, spelled, strict=True) if len(tokens) == 1]
    return single[:_MOST_WORDS]


def mint_canaries(words: Sequence[str], count: int) -> dict[str, tuple[FrozenItem, ...]]:
    """``count`` items of each canary by its name; none where the vocabulary has too few words.

    The same words give the same items.
    """
    if len(words) < _LEAST_WORDS or not count:
        return {}
    return {
        f"canary-{name}-{VERSION}": tuple(
            FrozenItem(item=make(f"{name}-{number}", random.Random(f"{name}/{number}"), words))
            for number in range(count)
        )
        for name, make in _MAKERS.items()
    }


def _copy(name: str, rng: random.Random, words: Sequence[str]) -> Item:
    """A list of words, and the same list again up to somewhere: what comes next?"""
    listed = rng.sample(words, _COPIED)
    known = rng.randrange(3, _COPIED - 1)
    return _item(name, [*listed, *listed[:known]], listed, listed[known])


def _induction(name: str, rng: random.Random, words: Sequence[str]) -> Item:
    """Words that do not repeat, but for the last: what followed it?"""
    listed = rng.sample(words, _FILLED)
    place = rng.randrange(_FILLED // 2)
    others = [word for word in listed if word not in listed[place : place + 2]]
    choices = [listed[place + 1], *rng.sample(others, _COPIED - 1)]
    return _item(name, [*listed, listed[place]], choices, listed[place + 1])


def _ordering(name: str, rng: random.Random, words: Sequence[str]) -> Item:
    """Lists with their order in the alphabet, and another list: which order is it?"""
    lists = [rng.sample(words, _SORTED) for _ in range(_DEMONSTRATIONS + 1)]
    told = "".join(f"{' '.join(part)} : {' '.join(sorted(part))}\n" for part in lists[:-1])
    asked = lists[-1]
    choices = sorted(" ".join(order) for order in permutations(asked))
    return Item(
        id=name,
        cluster=name,
        kind="multiple_choice",
        context=f"{told}{' '.join(asked)} :",
        choices=tuple(choices),
        gold=choices.index(" ".join(sorted(asked))),
        delimiter=" ",
    )


def _item(name: str, read: Sequence[str], choices: Sequence[str], right: str) -> Item:
    ordered = sorted(choices)
    return Item(
        id=name,
        cluster=name,
        kind="multiple_choice",
        context=" ".join(read),
        choices=tuple(ordered),
        gold=ordered.index(right),
        delimiter=" ",
    )


_MAKERS: dict[str, Callable[[str, random.Random, Sequence[str]], Item]] = {
    "copy": _copy,
    "induction": _induction,
    "ordering": _ordering,
}
