"""What each Unicode character is to the rules: one set of bits a code point.

The sets of punctuation are those that spaCy's tokenizer for English and datatrove's Gopher filter
go by (versions 3.8 and 0.10), as far as a Unicode property does not say the same.
"""

import string
from functools import cache

import numpy as np
from numpy.typing import NDArray

SPACE = 1 << 0
LETTER = 1 << 1
LOWER = 1 << 2
"""A letter that is not upper case; also one of a script without case, as ``UPPER`` is."""
UPPER = 1 << 3
DIGIT = 1 << 4
"""0 to 9."""
PREFIX = 1 << 5
"""Is a word of its own at the start of a word."""
SUFFIX = 1 << 6
"""Is a word of its own at the end of a word."""
QUOTE = 1 << 7
BEFORE_STOP = 1 << 8
"""A full stop after it ends a word."""
ICON = 1 << 9
CURRENCY = 1 << 10
SYMBOL = 1 << 11
"""A word of such characters alone is not counted as a word by Gopher's rules."""
SENTENCE_END = 1 << 12
PUNCTUATION = 1 << 13
"""Any kind of punctuation by Unicode's category."""
LINE_END = 1 << 14
"""Ends a line for ``str.splitlines``."""
IN_WORD = 1 << 15
"""Whether a character can take part in a split of a word: all but letters."""

_DASHES = "\u2013\u2014"
_ELLIPSIS = "\u2026"
_PUNCTUATION = (
    ",:;!?()[]{}<>_#*&"
    "\u00a1\u00b7\u00bf\u060c\u061b\u061f\u066a\u06d4\u0964\u2026\u3001\u3002"
    "\uff01\uff0c\uff1a\uff1b\uff1f\uff5e"
)
_QUOTES = (
    "'\"`,\u00ab\u00b4\u00bb\u2018\u2019\u201a\u201c\u201d\u201e\u2329\u232a\u27e6\u27e7"
    "\u3008\u3009\u300a\u300b\u300c\u300d\u300e\u300f\u3010\u3011\u3014\u3015\uff08\uff09"
)
_CURRENCIES = "$\u00a3\u00a5\u0e3f\ufdfc" + "".join(map(chr, range(0x20A0, 0x20C0)))
_SYMBOLS = (
    string.punctuation
    + "\u00ab\u00b4\u00bb\u2013\u2014\u2019\u201c\u201d\u201e\u2026\u2236\u2501\u25ba"
    + "\u3001\u3002\u3008\u3009\u300a\u300b\u300c\u300d\u3010\u3011\uff01\uff05\uff08\uff09"
    + "\uff0c\uff0e\uff11\uff1a\uff1b\uff1f\uff5e"
    + "".join(map(chr, (*range(9), *range(11, 32), *range(127, 160))))
)
_LINE_ENDS = "\n\v\f\r\x1c\x1d\x1e\x85\u2028\u2029"
_SPACES = "\t \x1f\u00a0\u1680\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
_BEFORE_STOP = string.digits + "%\u00b2-+|(?:)"


@cache
def character_classes() -> NDArray[np.uint16]:
    """``uint16[0x110000]``: the bits of each code point. Takes a tenth of a second once."""
    bits = np.zeros(0x110000, np.uint16)
    for flag, pattern in (
        (LETTER, r"\p{L}+"),
        (LOWER, r"[\p{L}--\p{Lu}]+"),
        (UPPER, r"[\p{L}--\p{Ll}]+"),
        (ICON | PREFIX | SUFFIX, r"\p{So}+"),
        (SENTENCE_END | SYMBOL, r"\p{Sentence_Terminal}+"),
        (PUNCTUATION, r"\p{P}+"),
    ):
        for first, after in _ranges(pattern):
            bits[first:after] |= flag
    for flag, characters in (
        (SPACE, _SPACES + _LINE_ENDS),
        (DIGIT, string.digits),
        (PREFIX, "\u00a7%=" + _DASHES + _PUNCTUATION + _QUOTES + _CURRENCIES),
        (SUFFIX, _DASHES + _PUNCTUATION + _QUOTES),
        (QUOTE, _QUOTES),
        (BEFORE_STOP, _BEFORE_STOP + _PUNCTUATION + _QUOTES),
        (CURRENCY, _CURRENCIES),
        (SYMBOL, _SYMBOLS),
        (LINE_END, _LINE_ENDS),
    ):
        bits[[ord(character) for character in characters]] |= flag
    bits[(bits & LOWER) != 0] |= BEFORE_STOP
    bits[(bits & LETTER) == 0] |= IN_WORD
    return bits


def _ranges(pattern: str) -> list[tuple[int, int]]:
    import regex  # noqa: PLC0415  needed once

    # No letter, symbol or punctuation is assigned above it, but tags and private characters.
    every = "".join(map(chr, range(0x32400)))
    return [match.span() for match in regex.finditer(pattern, every, regex.V1)]
