"""The words of texts as numbers, compiled: what counts as a letter, which words items have."""

import re
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from infra.compiled import compiled, compiled_inner
from tasks.evaluations.item_grams import UNSEEN, UNSPACED, folds

_NUM_CODES = 0x110000
_IN_WORD = np.uint32(1 << 31)
_ALONE = np.uint32(1 << 30)
"""A character that is a word by itself."""
_IS_UNSEEN = np.uint32(1 << 29)
_IS_LONGER = np.uint32(1 << 28)
"""A character that counts as several letters; its code is their place in ``longer``."""
_CODE = np.uint32(_IS_LONGER - 1)
_ASCII_END, _TWO_BYTES_END, _THREE_BYTES_END = 0x80, 0xE0, 0xF0
_WORD_START = np.uint64(0xCBF29CE484222325)
_WORD_STEP = np.uint64(0x100000001B3)
_MIX = np.uint64(0xD6E8FEB86659FD93)
_OPENS, _CLOSES, _SLASH = (ord(one) for one in "<>/")
_HALF = np.uint64(32)
_LOWER_HALF = np.uint64(0xFFFFFFFF)

Codes = NDArray[np.uint32]
Hashes = NDArray[np.uint64]
Numbers = NDArray[np.int64]


class Lexicon(NamedTuple):
    """The words that items have, as arrays for compiled code. Their numbers start at 1."""

    folded: Codes
    """``uint32[0x110000]``: what each character counts as, with what it is; 0 parts words."""
    longer: Codes
    """``uint32[characters, 3]``: the letters that one character counts as, 0 behind the last."""
    slots: Hashes
    """Open addressing: upper half of a word's hash and its number, 0 is an empty slot."""
    codes: Codes
    """The characters of all words, one after the other."""
    ends: Numbers
    """``int64[words + 1]``: where each word ends, that of number 0 at 0."""
    longest: int


def lexicon_of(words: Sequence[str]) -> Lexicon:
    """Arrays of ``words``, which are numbered from 1 in their order.

    Args:
        words: All different, as ``words_of`` gives them.
    """
    codes = [np.frombuffer(encoded(word, "utf-32-le"), np.uint32) for word in words]
    ends = np.cumsum([0, *map(len, codes)], dtype=np.int64)
    joined = np.concatenate([np.empty(0, np.uint32), *codes])
    slots = np.zeros(table_size(2 * len(words)), np.uint64)
    _number_words(joined, ends, slots)
    longest = max(map(len, codes), default=0)
    return Lexicon(*_fold_tables(), slots, joined, ends, longest)


def encoded(text: str, encoding: str) -> bytes:
    """Any text as bytes."""
    # What is no text anywhere else, a lone surrogate, is one here that parts words.
    return text.encode(encoding, "surrogatepass")


def table_size(least: int) -> int:
    """A power of two from ``least`` on."""
    return 1 << max(6, (least - 1).bit_length())


@cache
def _fold_tables() -> tuple[Codes, Codes]:
    """``folded`` and ``longer`` of a lexicon."""
    codes = np.arange(_NUM_CODES, dtype=np.uint32)
    several: dict[int, str] = {}
    for code, fold in folds().items():
        letters = re.sub(f"[{UNSEEN}]", "", fold)
        if len(letters) > 1:
            several[code] = letters
        else:
            codes[code] = ord(letters or fold)
    kinds = _kinds()[codes]
    folded = np.where(kinds != 0, codes | kinds, np.uint32(0))
    longer = np.zeros((len(several), 3), np.uint32)
    for place, (code, letters) in enumerate(several.items()):
        folded[code] = np.uint32(place) | _IS_LONGER
        longer[place, : len(letters)] = [ord(letter) for letter in letters]
    return folded, longer


def _kinds() -> Codes:
    """``uint32[0x110000]``: what each character is that counts as itself."""
    every = "".join(map(chr, range(_NUM_CODES)))
    kinds = np.zeros(_NUM_CODES, np.uint32)
    for kind, pattern in (
        (_IN_WORD, rf"[^\W_{UNSPACED}]+"),
        (_ALONE, f"[{UNSPACED}]+"),
        (_IS_UNSEEN, f"[{UNSEEN}]+"),
    ):
        for match in re.finditer(pattern, every):
            kinds[match.start() : match.end()] = kind
    return kinds


@compiled
def _number_words(codes: Codes, ends: Numbers, slots: Hashes) -> None:
    mask = np.uint64(len(slots) - 1)
    for number in range(1, len(ends)):
        hashed = _WORD_START
        for place in range(ends[number - 1], ends[number]):
            hashed = (hashed ^ np.uint64(codes[place])) * _WORD_STEP
        hashed = mixed(hashed)
        slot = hashed & mask
        while slots[slot] != 0:
            slot = (slot + np.uint64(1)) & mask
        slots[slot] = (hashed >> _HALF << _HALF) | np.uint64(number)


@compiled_inner
def mixed(value: np.uint64) -> np.uint64:
    """A hash whose every bit depends on all bits of ``value``."""
    value = (value ^ (value >> _HALF)) * _MIX
    return value ^ (value >> _HALF)


@compiled_inner
def _number_of(word: Codes, length: int, hashed: np.uint64, lexicon: Lexicon) -> int:
    """The number of ``word[:length]``, 0 when no item has it."""
    slots = lexicon.slots
    mask = np.uint64(len(slots) - 1)
    slot = hashed & mask
    while slots[slot] != 0:
        if slots[slot] >> _HALF == hashed >> _HALF:
            number = int(slots[slot] & _LOWER_HALF)
            start = lexicon.ends[number - 1]
            if lexicon.ends[number] - start == length:
                place = 0
                while place < length and lexicon.codes[start + place] == word[place]:
                    place += 1
                if place == length:
                    return number
        slot = (slot + np.uint64(1)) & mask
    return 0


@compiled_inner
def _decoded(text: NDArray[np.uint8], place: int) -> tuple[int, int]:
    """The character at ``place``, which is not ASCII, and where the next one starts."""
    code = int(text[place])
    second = int(text[place + 1] & 0x3F)
    if code < _TWO_BYTES_END:
        return ((code & 0x1F) << 6) | second, place + 2
    third = int(text[place + 2] & 0x3F)
    if code < _THREE_BYTES_END:
        return ((code & 0x0F) << 12) | (second << 6) | third, place + 3
    fourth = int(text[place + 3] & 0x3F)
    return ((code & 0x07) << 18) | (second << 12) | (third << 6) | fourth, place + 4


@compiled_inner
def _after_tag(text: NDArray[np.uint8], place: int, end: int) -> int:
    """The place behind the tag whose ``<`` stands before ``place``; ``place`` if none does."""
    first = text[place] if place < end else 0
    if not (first == _SLASH or ord("a") <= first | 0x20 <= ord("z")):
        return place
    after = place
    while after < end and ord("!") <= text[after] <= ord("~") and text[after] != _OPENS:
        if text[after] == _CLOSES:
            return after + 1
        after += 1
    return place


@compiled_inner
def _lengthened(
    hashed: np.uint64, word: Codes, length: int, place: np.uint32, lexicon: Lexicon
) -> tuple[np.uint64, int]:
    """Hash and length of a word that goes on with the letters at ``place`` in ``longer``."""
    for letter in lexicon.longer[place]:
        if letter:
            hashed = (hashed ^ np.uint64(letter)) * _WORD_STEP
            word[min(length, lexicon.longest)] = letter
            length += 1
    return hashed, length


@compiled_inner
def number_text(
    text: NDArray[np.uint8], start: int, end: int, lexicon: Lexicon, word: Codes, numbers: Hashes
) -> int:
    """Write the number of each word of ``text[start:end]``; returns how many words there are.

    ``word`` has room for the longest word that an item has, and one character.
    """
    folded, longest = lexicon.folded, lexicon.longest
    count = length = 0
    hashed = _WORD_START
    place = start
    while place < end:
        code = int(text[place])
        if code < _ASCII_END:
            place += 1
        else:
            code, place = _decoded(text, place)
        kind = folded[code]
        if kind & _IN_WORD:
            letter = kind & _CODE
            hashed = (hashed ^ np.uint64(letter)) * _WORD_STEP
            word[min(length, longest)] = letter
            length += 1
            continue
        if kind & (_IS_UNSEEN | _IS_LONGER):
            if kind & _IS_LONGER:
                hashed, length = _lengthened(hashed, word, length, kind & _CODE, lexicon)
            continue
        if length:
            is_short = length <= longest
            numbers[count] = _number_of(word, length, mixed(hashed), lexicon) if is_short else 0
            count += 1
            length = 0
            hashed = _WORD_START
        if code == _OPENS:
            place = _after_tag(text, place, end)
        if kind:
            word[0] = kind & _CODE
            alone = mixed((_WORD_START ^ np.uint64(word[0])) * _WORD_STEP)
            numbers[count] = _number_of(word, 1, alone, lexicon)
            count += 1
    if length:
        is_short = length <= longest
        numbers[count] = _number_of(word, length, mixed(hashed), lexicon) if is_short else 0
        count += 1
    return count
