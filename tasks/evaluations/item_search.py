"""The search for n-grams of items in texts, compiled: words, their numbers, runs of them.

Every n-gram has a hash, a polynomial of the numbers of its words modulo 2^64. Of a text each word
gets its number, 0 when no item has it; where enough words in a row have one, the hash of the first
few tells in nearly all places that no n-gram of an item begins there.
"""

import re
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from infra.compiled import compiled, compiled_inner
from tasks.evaluations.escapes import other_readings
from tasks.evaluations.item_grams import BASE, UNSEEN, UNSPACED, folds

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
_SIEVE_BITS_A_HEAD = 16

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


class Grams(NamedTuple):
    """The n-grams that are looked for, as arrays for compiled code."""

    lengths: Numbers
    """Words of an n-gram that there are, increasing."""
    powers: Hashes
    """``BASE`` to the power of each of them."""
    head: int
    """Words that ``sieve`` goes by, no more than any n-gram has."""
    head_power: np.uint64
    sieve: NDArray[np.uint8]
    """Bits: whether an n-gram may begin with words of this hash."""
    slots: NDArray[np.int32]
    """Open addressing: places in ``hashes``, -1 is an empty slot."""
    ns: Numbers
    """Of each n-gram its words,"""
    hashes: Hashes
    """and its hash; sorted by both."""


def lexicon_of(words: Sequence[str]) -> Lexicon:
    """Arrays of ``words``, which are numbered from 1 in their order.

    Args:
        words: All different, as ``words_of`` gives them.
    """
    codes = [np.frombuffer(_encoded(word, "utf-32-le"), np.uint32) for word in words]
    ends = np.cumsum([0, *map(len, codes)], dtype=np.int64)
    joined = np.concatenate([np.empty(0, np.uint32), *codes])
    slots = np.zeros(_table_size(2 * len(words)), np.uint64)
    _number_words(joined, ends, slots)
    longest = max(map(len, codes), default=0)
    return Lexicon(*_fold_tables(), slots, joined, ends, longest)


def grams_of(ns: Numbers, hashes: Hashes, head: int, heads: Hashes) -> Grams:
    """Arrays of n-grams.

    Args:
        ns: Words of each, at least ``head``.
        hashes: Of each; sorted by both, and all different.
        head: Words that the search begins with.
        heads: Hashes of the first ``head`` words of every n-gram; more of them do no harm.
    """
    lengths = np.unique(ns)
    powers = np.array([pow(int(BASE), int(n), 1 << 64) for n in lengths], np.uint64)
    sieve = np.zeros(_table_size(_SIEVE_BITS_A_HEAD * len(heads)) // 8, np.uint8)
    slots = np.full(_table_size(2 * len(hashes)), -1, np.int32)
    head_power = np.uint64(pow(int(BASE), head, 1 << 64))
    grams = Grams(lengths, powers, head, head_power, sieve, slots, ns, hashes)
    _place_grams(heads, grams)
    return grams


@compiled
def hash_runs(numbers: Hashes, ends: Numbers, ns: Numbers, head: int) -> tuple[Hashes, Hashes]:
    """Hashes of every run of words of some items, in their order.

    Args:
        numbers: Of the words of all items, one item after the other.
        ends: ``int64[items]``: where the words of each end.
        ns: ``int64[items]``: how many words a run of each has, at least ``head``.
        head: Words.

    Returns:
        Of each run its hash, and that of its first ``head`` words.
    """
    room = len(numbers)
    hashes, heads = np.empty(room, np.uint64), np.empty(room, np.uint64)
    count, start = 0, 0
    for item in range(len(ends)):
        for first in range(start, ends[item] - ns[item] + 1):
            hashed = np.uint64(0)
            for place in range(first, first + ns[item]):
                if place == first + head:
                    heads[count] = hashed
                hashed = hashed * BASE + numbers[place]
            if ns[item] == head:
                heads[count] = hashed
            hashes[count] = hashed
            count += 1
        start = ends[item]
    return hashes[:count], heads[:count]


def find_grams(texts: Sequence[str], lexicon: Lexicon, grams: Grams) -> list[NDArray[np.int64]]:
    """The n-grams of each text, each once, read with and without escapes.

    Returns:
        Of each text the places of n-grams in ``grams``, in increasing order.
    """
    encoded = [_encoded(text, "utf-8") for text in texts]
    read = [
        (number, _encoded(reading, "utf-8"))
        for number, text in enumerate(encoded)
        # Bytes are searched several times as fast as characters.
        if b"\\" in text or b"&" in text
        for reading in other_readings(texts[number])
    ]
    encoded += [reading for _, reading in read]
    ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)
    hits, hit_ends = _find(np.frombuffer(b"".join(encoded), np.uint8), ends, lexicon, grams)
    found = np.split(hits, hit_ends)
    for (number, _), others in zip(read, found[len(texts) : -1], strict=True):
        if len(others):
            found[number] = np.union1d(found[number], others)
    return found[: len(texts)]


def _encoded(text: str, encoding: str) -> bytes:
    # What is no text anywhere else, a lone surrogate, is one here that parts words.
    return text.encode(encoding, "surrogatepass")


def _table_size(least: int) -> int:
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


@compiled_inner
def _mixed(value: np.uint64) -> np.uint64:
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


@compiled
def _number_words(codes: Codes, ends: Numbers, slots: Hashes) -> None:
    mask = np.uint64(len(slots) - 1)
    for number in range(1, len(ends)):
        hashed = _WORD_START
        for place in range(ends[number - 1], ends[number]):
            hashed = (hashed ^ np.uint64(codes[place])) * _WORD_STEP
        hashed = _mixed(hashed)
        slot = hashed & mask
        while slots[slot] != 0:
            slot = (slot + np.uint64(1)) & mask
        slots[slot] = (hashed >> _HALF << _HALF) | np.uint64(number)


@compiled
def _place_grams(heads: Hashes, grams: Grams) -> None:
    sieve, slots = grams.sieve, grams.slots
    bits = np.uint64(8 * len(sieve) - 1)
    for head in heads:
        bit = _mixed(head) & bits
        sieve[bit >> np.uint64(3)] |= np.uint8(1 << (bit & np.uint64(7)))
    mask = np.uint64(len(slots) - 1)
    for gram in range(len(grams.hashes)):
        slot = _mixed(grams.hashes[gram] + np.uint64(grams.ns[gram])) & mask
        while slots[slot] >= 0:
            slot = (slot + np.uint64(1)) & mask
        slots[slot] = gram


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
def _number_text(
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
            numbers[count] = _number_of(word, length, _mixed(hashed), lexicon) if is_short else 0
            count += 1
            length = 0
            hashed = _WORD_START
        if code == _OPENS:
            place = _after_tag(text, place, end)
        if kind:
            word[0] = kind & _CODE
            alone = _mixed((_WORD_START ^ np.uint64(word[0])) * _WORD_STEP)
            numbers[count] = _number_of(word, 1, alone, lexicon)
            count += 1
    if length:
        is_short = length <= longest
        numbers[count] = _number_of(word, length, _mixed(hashed), lexicon) if is_short else 0
        count += 1
    return count


@compiled_inner
def _gram_of(n: int, hashed: np.uint64, grams: Grams) -> int:
    """The place of an n-gram, -1 when no item has it."""
    slots = grams.slots
    mask = np.uint64(len(slots) - 1)
    slot = _mixed(hashed + np.uint64(n)) & mask
    while slots[slot] >= 0:
        gram = slots[slot]
        if grams.hashes[gram] == hashed and grams.ns[gram] == n:
            return gram
        slot = (slot + np.uint64(1)) & mask
    return -1


@compiled_inner
def _search_run(
    prefixes: Hashes, first: int, after: int, grams: Grams, seen: NDArray[np.bool_], found: Numbers
) -> int:
    """Write the n-grams that stand in words ``first`` to ``after`` and were not seen."""
    count = 0
    sieve = grams.sieve
    bits = np.uint64(8 * len(sieve) - 1)
    for start in range(first, after - grams.head + 1):
        head = prefixes[start + grams.head] - prefixes[start] * grams.head_power
        bit = _mixed(head) & bits
        if not (sieve[bit >> np.uint64(3)] >> (bit & np.uint64(7))) & 1:
            continue
        for index in range(len(grams.lengths)):
            n = grams.lengths[index]
            if start + n > after:
                break
            gram = _gram_of(n, prefixes[start + n] - prefixes[start] * grams.powers[index], grams)
            if gram >= 0 and not seen[gram]:
                seen[gram] = True
                found[count] = gram
                count += 1
    return count


@compiled
def _find(
    data: NDArray[np.uint8], ends: Numbers, lexicon: Lexicon, grams: Grams
) -> tuple[Numbers, Numbers]:
    longest, start = 0, 0
    for end in ends:
        longest, start = max(longest, end - start), end
    # A word of one ASCII letter and what parts it from the next are the shortest.
    most = (longest + 1) // 2
    numbers = np.empty(most + 1, np.uint64)
    prefixes = np.zeros(most + 2, np.uint64)
    word = np.empty(lexicon.longest + 1, np.uint32)
    seen = np.zeros(len(grams.hashes), np.bool_)
    # Each n-gram once a text; so much room is enough for one text.
    found = np.empty(len(grams.hashes), np.int64)
    hits = np.empty(64, np.int64)
    hit_ends = np.empty(len(ends), np.int64)
    total, start = 0, 0
    for text in range(len(ends)):
        words = _number_text(data, start, ends[text], lexicon, word, numbers)
        numbers[words] = 0
        count = first = 0
        for place in range(words + 1):
            number = numbers[place]
            prefixes[place + 1] = prefixes[place] * BASE + number
            if number == 0:
                if place - first >= grams.head:
                    count += _search_run(prefixes, first, place, grams, seen, found[count:])
                first = place + 1
        while total + count > len(hits):
            hits = np.concatenate((hits, np.empty_like(hits)))
        found[:count].sort()
        for index in range(count):
            hits[total + index] = found[index]
            seen[found[index]] = False
        total += count
        hit_ends[text] = total
        start = ends[text]
    return hits[:total], hit_ends
