"""Which characters of several bytes a piece may be begun with, instead of with their bytes.

Merging takes time for every byte, and text that is not Latin has three a character. Let a character
come to be one token by merges up to rank R when it is alone. It does so in a text too, unless its
first or its last part, as they are on the way, is merged with a neighbour at a rank before that
part is merged inside of the character. Where that cannot be, beginning with the whole character
changes nothing: merges with it come after R, given that every token is used later than it is made.
"""

import sys
from collections import defaultdict
from itertools import pairwise

import numpy as np

from training.fast_bpe import merge

_NEVER = 1 << 62


def whole_characters(
    byte_tokens: np.ndarray, pairs: np.ndarray, merged: np.ndarray, data: dict[int, bytes]
) -> np.ndarray:
    """See ``kernel.Tables.whole_characters``; all 0 where some token is used before it is made.

    Args:
        byte_tokens: ``uint32[256]``: token of each byte.
        pairs: ``uint32[merges, 2]``: tokens that each merge takes, by rank.
        merged: ``uint32[merges]``: token that it makes.
        data: What each token stands for; without those that are made of no text.
    """
    result = np.zeros(sys.maxunicode + 1, np.uint64)
    if not _are_made_before_used(pairs, merged):
        return result
    ranks = {(a, b): rank for rank, (a, b) in enumerate(pairs.tolist())}
    crossing = _Crossing(pairs, data)
    made = merged.tolist()
    for token, text in data.items():
        character = text.decode("utf-8", "ignore")
        if len(character) == 1 and character.encode() == text and len(text) > 1:
            tokens = [int(byte_tokens[byte]) for byte in text]
            firsts, lasts = _merge_alone(tokens, ranks, made)
            if tokens == [token]:
                result[ord(character)] = token | crossing.neighbours(firsts, lasts)
    return result


class _Crossing:
    """With which neighbouring bytes a part of a character is merged, and from which rank on."""

    def __init__(self, pairs: np.ndarray, data: dict[int, bytes]) -> None:
        self._before: dict[int, dict[int, int]] = defaultdict(dict)
        self._after: dict[int, dict[int, int]] = defaultdict(dict)
        for rank, (left, right) in enumerate(pairs.tolist()):
            if left not in data or right not in data:
                continue
            # A continuation byte first: both are of one character.
            if data[right][0] & 0xC0 != 0x80:
                self._before[right].setdefault(data[left][-1], rank)
                self._after[left].setdefault(data[right][0], rank)

    def neighbours(self, firsts: dict[int, int], lasts: dict[int, int]) -> int:
        """Bytes beside which a character whose first and last parts end at these ranks is unsure.

        As ``kernel.Tables.whole_characters`` has them.
        """
        return (
            _two_of(_earlier(self._before, firsts)) << merge.AFTER
            | _two_of(_earlier(self._after, lasts)) << merge.BEFORE
        )


def _earlier(merges: dict[int, dict[int, int]], parts: dict[int, int]) -> list[int]:
    """The bytes with which one of ``parts`` is merged before it ends."""
    return sorted(
        {byte for part, end in parts.items() for byte, rank in merges[part].items() if rank < end}
    )


def _two_of(neighbours: list[int]) -> int:
    if len(neighbours) > 2:
        return merge.ANY_BYTE
    first, second = [*neighbours, merge.NO_BYTE, merge.NO_BYTE][:2]
    return first | second << 8


def _are_made_before_used(pairs: np.ndarray, merged: np.ndarray) -> bool:
    """Whether every token is only used by merges of a higher rank than all that make it."""
    if not len(merged):
        return True
    order = np.arange(len(merged))
    size = int(max(pairs.max(), merged.max())) + 1
    last_made, first_used = np.full(size, -1), np.full(size, _NEVER)
    np.maximum.at(last_made, merged, order)
    for side in (0, 1):
        np.minimum.at(first_used, pairs[:, side], order)
    return bool((last_made < first_used).all())


def _merge_alone(
    tokens: list[int], ranks: dict[tuple[int, int], int], merged: list[int]
) -> tuple[dict[int, int], dict[int, int]]:
    """Merge ``tokens`` in place; returns at which rank each first and each last of them ended."""
    firsts: dict[int, int] = {}
    lasts: dict[int, int] = {}
    while len(tokens) > 1:
        found = [ranks.get((a, b), _NEVER) for a, b in pairwise(tokens)]
        rank = min(found)
        if rank == _NEVER:
            break
        place = found.index(rank)
        if place == 0:
            firsts[tokens[0]] = rank
        if place == len(found) - 1:
            lasts[tokens[-1]] = rank
        tokens[place : place + 2] = [merged[rank]]
    return firsts, lasts
