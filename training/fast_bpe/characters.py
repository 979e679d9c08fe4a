"""The kind of every code point, as the regular expressions of ``tokenizers`` have it.

They are asked of that library itself, so that its version of Unicode is ours: its expressions, its
digits and Python's own tables may each be of another.
"""

import sys
import unicodedata
from functools import cache

import numpy as np
from tokenizers import Regex, pre_tokenizers

from training.fast_bpe import cut

_LONG_S = "\N{LATIN SMALL LETTER LONG S}"
_SURROGATES = range(0xD800, 0xE000)
# Where Hangul composes by rule, not by a table: consonants and vowels that may join others.
_JAMO = range(0x1100, 0x1200)
_KNOWN_STABLE = 0x32000
"""Normalisation is looked up for code points below; nearly nothing above is in use."""


@cache
def kinds_of_code_points(*, split_digits: bool, normalise: bool) -> np.ndarray:
    """``uint8[0x110000]``: bits of ``cut``: the kind of each code point.

    Args:
        split_digits: Take as digits what the pre-tokenizer Digits splits off.
        normalise: Mark what NFC may change with ``cut.UNSTABLE``.

    Raises:
        ValueError: The library's expressions are not what the kernel takes them for.
    """
    every = "".join(chr(code) for code in range(sys.maxunicode + 1) if code not in _SURROGATES)
    kinds = np.full(sys.maxunicode + 1, cut.OTHER, np.uint8)
    some = _matched(r"[\p{L}\p{N}\s]", every)
    for pattern, kind in (
        (r"\p{L}", cut.LETTER),
        (r"\p{N}", cut.DIGIT),
        (r"\s", cut.SPACE),
        (r"[\r\n]", cut.SPACE | cut.NEWLINE),
        (" ", cut.SPACE | cut.BLANK),
    ):
        kinds[_codes(_matched(pattern, some))] = kind
    folded = {letter for letter in _matched("(?i:[sdmtlrev])", some) if not letter.isascii()}
    if folded != {_LONG_S} or kinds[ord("'")] != cut.OTHER:
        raise ValueError(
            f"expected only {_LONG_S} to fold to a letter of a contraction, found {folded}"
        )
    if split_digits:
        digits = _codes("".join(_split_off_digits(every)))
        if not np.isin(np.flatnonzero(kinds == cut.DIGIT), digits).all():
            raise ValueError(r"expected the pre-tokenizer Digits to split off all of \p{N}")
        kinds[digits] = cut.DIGIT
    if normalise:
        kinds[_unstable()] |= cut.UNSTABLE
    return kinds


def _matched(pattern: str, text: str) -> str:
    """The characters of ``text`` that ``pattern`` matches."""
    split = pre_tokenizers.Split(Regex(f"(?:{pattern})+"), "removed", invert=True)
    return "".join(text[first:end] for _, (first, end) in split.pre_tokenize_str(text))


def _split_off_digits(text: str) -> list[str]:
    """The runs of digits in ``text``, which does not begin with one."""
    runs = pre_tokenizers.Digits(individual_digits=False).pre_tokenize_str(text)
    return [text[first:end] for _, (first, end) in runs[1::2]]


def _codes(characters: str) -> np.ndarray:
    return np.array([ord(character) for character in characters], np.int64)


def _unstable() -> np.ndarray:
    """What NFC may change, move or join with what is before it; all that Python does not know.

    By Unicode's policy a later version changes none of the rest.
    """
    seconds = set(_JAMO)
    known = [chr(code) for code in range(_KNOWN_STABLE) if code not in _SURROGATES]
    for character in known:
        parts = unicodedata.decomposition(character).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            seconds.add(int(parts[1], 16))
    unstable = np.ones(sys.maxunicode + 1, bool)
    for character in known:
        unstable[ord(character)] = (
            unicodedata.category(character) == "Cn"
            or ord(character) in seconds
            or unicodedata.combining(character) != 0
            or unicodedata.normalize("NFC", character) != character
        )
    return np.flatnonzero(unstable)
