"""Where in a text personal data and secrets may be, compiled: one pass that finds what is rare.

Everything that ``pii_search`` could find there is in what is told here; most of what is told is
nothing. Its regular expressions then look at those places alone.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from infra.compiled import compiled_inner

_DIGIT, _IN_NUMBER, _HEX_OR_COLON, _HEX = 1, 2, 4, 8
_NUM_CODES = 0x110000
_BUCKETS = 1 << 13
_FEWEST_DIGITS = 7
_COLON, _DOT = ord(":"), ord(".")
_CASE = 0x20
_SMALL_A, _SMALL_Z = ord("a"), ord("z")
_KELVIN = 0x212A
"""Its small letter is k."""

_Text = NDArray[Any]
"""ASCII as ``uint8``, or code points as ``uint32``."""
_Regions = NDArray[np.int32]
"""``int32[n, 2]``: start and end."""
Region = tuple[int, int]


class Hints(NamedTuple):
    """Words that are looked for, as arrays for compiled code."""

    buckets: NDArray[np.uint8]
    """By a hash of three characters: 1 and the number of a word that begins so, 0 for none."""
    following: NDArray[np.uint8]
    """Another word of the same bucket, in the same way."""
    letters: NDArray[np.uint8]
    """``uint8[words, longest]``."""
    lengths: NDArray[np.int64]
    folds: NDArray[np.bool_]
    """Whether upper and lower case are one."""


class Candidates(NamedTuple):
    """Of one text."""

    hints: int
    """A bit for each word that occurs."""
    numbers: Sequence[Region]
    """Runs of digits and of what stands between those of a number, with seven digits at least."""
    ipv4: Sequence[Region]
    """Runs of digits and full stops, three of these at least."""
    ipv6: Sequence[Region]
    """Runs of hexadecimal digits and colons, two of these at least."""


def hints_of(words: Sequence[str], folded: Sequence[str]) -> Hints:
    """Arrays of ``words``, and of ``folded`` ones of which the case does not matter.

    Args:
        words: ASCII of three characters at least; their bits follow their order.
        folded: In lower case; their bits follow those of ``words``.
    """
    every = [*words, *folded]
    longest = max(map(len, every))
    letters = np.zeros((len(every), longest), np.uint8)
    for row, word in enumerate(every):
        letters[row, : len(word)] = np.frombuffer(word.encode(), np.uint8)
    folds = np.arange(len(every)) >= len(words)
    buckets, following = np.zeros(_BUCKETS, np.uint8), np.zeros(len(every), np.uint8)
    for row, word in enumerate(every):
        # Of folded words the bucket is that of small letters, and all texts are folded for it.
        bucket = _bucket(*(_folded(ord(letter)) for letter in word[:3]))
        following[row], buckets[bucket] = buckets[bucket], row + 1
    return Hints(buckets, following, letters, np.array(list(map(len, every)), np.int64), folds)


def candidates_in(text: str, hints: Hints) -> Candidates:
    """Where ``text`` has to be looked at."""
    is_ascii = text.isascii()
    encoded = text.encode() if is_ascii else text.encode("utf-32-le", "surrogatepass")
    codes = np.frombuffer(encoded, np.uint8 if is_ascii else np.uint32)
    numbers, ipv4, ipv6 = (np.empty((len(codes) // _FEWEST_DIGITS + 1, 2), np.int32) for _ in "123")
    found = _scan_words(codes, _classes(), hints, ipv6)
    num_numbers, num_ipv4 = _scan_digits(codes, _classes(), numbers, ipv4)
    return Candidates(
        int(found[0]),
        numbers[:num_numbers].tolist() if num_numbers else (),
        ipv4[:num_ipv4].tolist() if num_ipv4 else (),
        ipv6[: found[1]].tolist() if found[1] else (),
    )


@cache
def _classes() -> NDArray[np.uint8]:
    """``uint8[0x110000]``: what each character can be a part of."""
    classes = np.zeros(_NUM_CODES, np.uint8)
    every = "".join(map(chr, range(_NUM_CODES)))
    classes[[code for code, char in enumerate(every) if char.isdecimal()]] = _DIGIT | _IN_NUMBER
    for characters, kind in (
        ("+ ()./-", _IN_NUMBER),
        ("0123456789abcdefABCDEF", _HEX | _HEX_OR_COLON),
        (":", _HEX_OR_COLON),
    ):
        classes[[ord(character) for character in characters]] |= kind
    return classes


@compiled_inner
def _folded(code: int) -> int:
    """Small letters and capitals as one; other characters may fall together, too."""
    return code | _CASE


@compiled_inner
def _bucket(first: int, second: int, third: int) -> int:
    return (first * 961 + second * 31 + third) & (_BUCKETS - 1)


@compiled_inner
def _is_word(text: _Text, place: int, word: int, hints: Hints) -> bool:
    length = hints.lengths[word]
    if place + length > len(text):
        return False
    for offset in range(length):
        code, letter = text[place + offset], hints.letters[word, offset]
        if code == letter:
            continue
        is_letter = _SMALL_A <= letter <= _SMALL_Z
        if not (hints.folds[word] and is_letter and (code == letter - _CASE or code == _KELVIN)):
            return False
    return True


@compiled_inner
def _scan_words(
    text: _Text, classes: NDArray[np.uint8], hints: Hints, ipv6: _Regions
) -> tuple[np.uint64, int]:
    """The words that occur, and how many regions were written to ``ipv6``."""
    found = np.uint64(0)
    regions = seen_to = 0
    first, second = 0, 0
    for place in range(len(text)):
        code = int(text[place])
        third = ord("k") if code == _KELVIN else _folded(code)
        word = hints.buckets[_bucket(first, second, third)]
        first, second = second, third
        while word:
            bit = np.uint64(1) << np.uint64(word - 1)
            if not found & bit and place >= 2 and _is_word(text, place - 2, int(word) - 1, hints):
                found |= bit
            word = hints.following[word - 1]
        if code == _COLON and place >= seen_to:
            start, end, colons = _colon_run(text, place, classes)
            seen_to = end
            if colons > 1 and end - start > _FEWEST_DIGITS - 1:
                ipv6[regions, 0], ipv6[regions, 1] = start, end
                regions += 1
    return found, regions


@compiled_inner
def _colon_run(text: _Text, place: int, classes: NDArray[np.uint8]) -> tuple[int, int, int]:
    """Around a first colon: start and end of the run, and its colons."""
    start, end, colons = place, place, 0
    while start > 0 and classes[text[start - 1]] & _HEX:
        start -= 1
    while end < len(text) and classes[text[end]] & _HEX_OR_COLON:
        colons += text[end] == _COLON
        end += 1
    return start, end, colons


@compiled_inner
def _scan_digits(
    text: _Text, classes: NDArray[np.uint8], numbers: _Regions, ipv4: _Regions
) -> tuple[int, int]:
    """How many regions were written to ``numbers`` and to ``ipv4``."""
    num_numbers = num_ipv4 = 0
    place = 0
    while place < len(text):
        if not classes[text[place]] & _DIGIT:
            place += 1
            continue
        start, digits = place, 0
        # What may stand before the first digit: one sign.
        if start > 0 and classes[text[start - 1]] & _IN_NUMBER:
            start -= 1
        dotted, dots, dotted_digits = place, 0, 0
        while place < len(text) and classes[text[place]] & _IN_NUMBER:
            is_digit = classes[text[place]] & _DIGIT
            digits += is_digit
            if is_digit or text[place] == _DOT:
                dotted_digits += is_digit
                dots += text[place] == _DOT
            else:
                if dots > 2 and dotted_digits > 3:
                    ipv4[num_ipv4, 0], ipv4[num_ipv4, 1] = dotted, place
                    num_ipv4 += 1
                dotted, dots, dotted_digits = place + 1, 0, 0
            place += 1
        if dots > 2 and dotted_digits > 3:
            ipv4[num_ipv4, 0], ipv4[num_ipv4, 1] = dotted, place
            num_ipv4 += 1
        if digits >= _FEWEST_DIGITS:
            numbers[num_numbers, 0], numbers[num_numbers, 1] = start, place
            num_numbers += 1
    return num_numbers, num_ipv4
