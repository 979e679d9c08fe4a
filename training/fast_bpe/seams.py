"""Where a piece may be cut once more: between two characters that no token holds together.

Merging makes nothing but tokens, so what no token spans is never merged, and what is on either side
comes to the same tokens alone. Text without spaces has such seams every few characters, and what
is between two of them comes again and again, as the words of other scripts do.

A token that spans a seam has both characters and no more, or the one before them too, or the one
after. It may begin or end inside of a character; then it counts as holding all characters with that
last byte, or with these first two.
"""

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np

from infra.compiled import compiled, inlined
from training.fast_bpe.cut import SEPARATOR, word

SHORTEST = 10
"""Pieces of fewer bytes, of at least 8, stay whole: they come again as they are."""
_RARE = 16
"""Texts are not looked through unless one of so many bytes begins a character of three or four."""

_BITS_EACH = 32
_MIX_1, _MIX_2 = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)
_MIX_3 = np.uint64(0x9E3779B97F4A7C15)
_WIDE = np.uint8(0xE0)
_ONE, _IN_WORD, _HIGHEST = np.uint64(1), np.uint64(63), np.uint64(0x8080808080808080)


def neighbours_of(tokens: Iterable[bytes]) -> np.ndarray:
    """``uint64[2^k]``: a Bloom filter of the characters that are neighbours in one of ``tokens``.

    Three in a row, and two where the token has no third or begins or ends inside of a character.
    Of a few that no token holds the filter says that one does, which only costs time.
    """
    held = {some for token in tokens if not token.isascii() for some in _neighbours_in(token)}
    neighbours = np.zeros(1 << (len(held) * _BITS_EACH // 64).bit_length(), np.uint64)
    _enter(neighbours, np.array(sorted(held), np.uint64).reshape(-1, 3))
    return neighbours


def may_have_seams(text: np.ndarray) -> bool:
    """Whether enough of ``text``, ``uint8[N]``, is of scripts without spaces for ``narrow``."""
    return np.count_nonzero(text >= _WIDE) * _RARE > len(text)


def _neighbours_in(token: bytes) -> Iterator[tuple[int, int, int]]:
    """Neighbours in ``token`` as ``narrow`` looks for them, 0 before two."""
    begins = [place for place in range(1, len(token)) if token[place] & 0xC0 != 0x80]
    characters = [token[begin:end] for begin, end in pairwise([0, *begins, len(token)])]
    is_whole = _is_whole(characters[0]) and _is_whole(characters[-1])
    if len(characters) > 2 and is_whole:
        numbers = [int.from_bytes(character, "little") for character in characters]
        yield from zip(numbers, numbers[1:], numbers[2:], strict=False)
        return
    for left, right in pairwise(characters):
        end = left[-1:] if left[0] & 0xC0 == 0x80 else left
        for beginning in _beginnings(right):
            yield 0, int.from_bytes(end, "little"), int.from_bytes(beginning, "little")


def _width_of(lead: int) -> int:
    return 1 + sum(lead >= first for first in (0xC0, 0xE0, 0xF0))


def _is_whole(character: bytes) -> bool:
    return character[0] & 0xC0 != 0x80 and len(character) >= _width_of(character[0])


def _beginnings(character: bytes) -> list[bytes]:
    """A whole ``character`` itself; of one that is cut off, the first two bytes it may have."""
    if _is_whole(character) or _width_of(character[0]) == 2:
        return [character]
    if len(character) > 1:
        return [character[:2]]
    return [character + bytes([second]) for second in range(0x80, 0xC0)]


@inlined
def _place_of(first: Any, second: Any, third: Any, size: Any) -> Any:
    """Word of a filter of ``size`` words, and the bits in it, of neighbours."""
    mixed = ((first * _MIX_1 + second) * _MIX_2 + third) * _MIX_3
    bits = _ONE << (mixed >> np.uint64(58)) | _ONE << (mixed >> np.uint64(52) & _IN_WORD)
    bits |= _ONE << (mixed >> np.uint64(46) & _IN_WORD)
    return mixed >> np.uint64(16) & np.uint64(size - 1), bits


@compiled
def _enter(neighbours: Any, held: Any) -> None:
    for index in range(len(held)):
        place, bits = _place_of(held[index, 0], held[index, 1], held[index, 2], len(neighbours))
        neighbours[place] |= bits


@inlined
def _has(neighbours: Any, first: Any, second: Any, third: Any) -> Any:
    place, bits = _place_of(first, second, third, len(neighbours))
    return neighbours[place] & bits == bits


@inlined
def _character(text: Any, place: Any) -> Any:
    """The character at ``place``, its first two bytes and its last one as numbers; its width."""
    lead = np.uint64(text[place])
    if lead < np.uint64(0x80):
        return lead, lead, lead, 1
    whole = word(text, place)
    if lead < np.uint64(0xE0):
        whole &= np.uint64(0xFFFF)
        return whole, lead, whole >> np.uint64(8), 2
    if lead < np.uint64(0xF0):
        whole &= np.uint64(0xFFFFFF)
        return whole, whole & np.uint64(0xFFFF), whole >> np.uint64(16), 3
    whole &= np.uint64(0xFFFFFFFF)
    return whole, whole & np.uint64(0xFFFF), whole >> np.uint64(24), 4


@inlined
def _is_seam(neighbours: Any, left: Any, last: Any, right: Any, beginning: Any) -> Any:
    """Whether no token of two characters, or with a part of one, holds ``left`` and ``right``."""
    none = np.uint64(0)
    if (left | right) < np.uint64(0x80) or _has(neighbours, none, left, right):
        return False
    held = _has(neighbours, none, last, right) | _has(neighbours, none, left, beginning)
    return not held | _has(neighbours, none, last, beginning)


@inlined
def _is_narrow(text: Any, begin: Any, stop: Any) -> Any:
    """Whether all characters of a piece are of one or two bytes: these scripts have spaces."""
    for place in range(begin, stop, 8):
        eight = word(text, min(place, stop - 8))
        # From 0xE0 on all three of the highest bits are set.
        if eight & eight << np.uint64(1) & eight << np.uint64(2) & _HIGHEST:
            return False
    return True


@compiled
def narrow(text: Any, pieces: Any, count: Any, neighbours: Any, narrower: Any) -> Any:
    """Cut pieces at their seams, and write where all pieces start; returns how many.

    Args:
        text: ``uint8[N]``, see ``cut.cut``.
        pieces: ``int64[N]``: where pieces start, and where the last one ends.
        count: How many.
        neighbours: See ``neighbours_of``.
        narrower: ``int64[N]``: gets the same after the cuts.
    """
    found = 0
    for piece in range(count):
        place, stop = pieces[piece], pieces[piece + 1]
        narrower[found] = place
        found += 1
        if stop - place < SHORTEST or text[place] == SEPARATOR or _is_narrow(text, place, stop):
            continue
        left = last = right = beginning = end = np.uint64(0)
        begin, was_held = place, False
        # ``left`` ends and ``right`` begins at ``begin``; what follows the piece counts as in it.
        while begin < stop:
            following, its_beginning, its_end, width = _character(text, place)
            is_held = _has(neighbours, left, right, following)
            is_open = left > 0 and not is_held | was_held
            if is_open and _is_seam(neighbours, left, last, right, beginning):
                narrower[found] = begin
                found += 1
            left, last, was_held = right, end, is_held
            right, beginning, end = following, its_beginning, its_end
            begin = place
            place += width
    narrower[found] = pieces[count]
    return found
