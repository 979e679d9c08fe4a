"""The class of every code point, as the regular expressions of ``tokenizers`` have it.

They are asked of that library itself, so that its version of Unicode is ours.
"""

import sys
import unicodedata
from functools import cache

import numpy as np
from tokenizers import Regex, pre_tokenizers

from training.fast_bpe import cut

_SURROGATES = range(0xD800, 0xE000)
# Where Hangul composes by rule, not by a table: consonants and vowels that may join others.
_JAMO = range(0x1100, 0x1200)


@cache
def kinds_of_code_points() -> np.ndarray:
    """``uint8[0x110000]``: ``cut.OTHER`` and so on, and the flag ``cut.UNSTABLE``.

    Raises:
        ValueError: The library's patterns are not what the kernel takes them for.
    """
    kinds = np.full(sys.maxunicode + 1, cut.OTHER, np.uint8)
    for pattern, kind in (
        (r"\p{L}", cut.LETTER),
        (r"\p{N}", cut.DIGIT),
        (r"\s", cut.SPACE),
        (r"[\r\n]", cut.SPACE | cut.NEWLINE),
    ):
        kinds[_matches(pattern)] = kind
    kinds[0x20] |= cut.BLANK
    folded = [code for code in _matches("(?i:[sdmtlrev])") if code >= 0x80]
    expected = {
        " ": cut.SPACE | cut.BLANK,
        "\n": cut.SPACE | cut.NEWLINE,
        "\r": cut.SPACE | cut.NEWLINE,
        "'": cut.OTHER,
    }
    found = {text: int(kinds[ord(text)]) for text in expected}
    if folded != [ord("ſ")] or found != expected:
        raise ValueError(
            f"expected the kinds {expected} and only ſ to fold to a letter of a contraction, "
            f"found {found} and {[chr(code) for code in folded]}"
        )
    kinds[_unstable()] |= cut.UNSTABLE
    return kinds


def numbers_are_digits() -> bool:
    r"""Whether the characters that Digits splits off are those of \p{N}."""
    # Each after a letter: a number is then a piece of its own.
    text = "".join("a" + chr(code) for code in _code_points())
    pieces = pre_tokenizers.Digits(individual_digits=True).pre_tokenize_str(text)
    numeric = [ord(text[first]) for _, (first, end) in pieces if end - first == 1 and first % 2]
    return numeric == _matches(r"\p{N}")


def _matches(pattern: str) -> list[int]:
    """The code points that ``pattern`` matches, ascending."""
    text = "".join(map(chr, _code_points()))
    split = pre_tokenizers.Split(Regex(f"(?:{pattern})+"), "removed", invert=True)
    pieces = split.pre_tokenize_str(text)
    return [ord(text[place]) for _, (first, end) in pieces for place in range(first, end)]


def _code_points() -> list[int]:
    return [code for code in range(sys.maxunicode + 1) if code not in _SURROGATES]


def _unstable() -> list[int]:
    """What NFC may change, move or join with what is before it; all that Python does not know.

    By Unicode's policy a later version changes none of the rest.
    """
    seconds = set(_JAMO)
    for code in _code_points():
        parts = unicodedata.decomposition(chr(code)).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            seconds.add(int(parts[1], 16))
    return [
        code
        for code in _code_points()
        if code in seconds
        or unicodedata.combining(chr(code))
        or unicodedata.category(chr(code)) == "Cn"
        or unicodedata.normalize("NFC", chr(code)) != chr(code)
    ]
