"""What counts of a text when two are compared: folded letters and digits, cut into units.

A unit is a word: a run of letters, digits and marks between white space, punctuation and symbols.
In scripts that are written without spaces each character is a unit of its own. Upper and lower
case are one, also where one of them has more letters (``longer_folds``), and so are ASCII and its
full-width forms.

The ranges are spelled out here and not taken from Python's Unicode data, so that a signature made
today fits one made in years. Only case folding is, which Unicode promises never to change for a
character that has been assigned (https://www.unicode.org/policies/stability_policy.html).
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tasks.case_folding import DOT, TURKISH_I, longer_folds

SEPARATOR, IGNORED = 0, 1
OWN_UNIT = 1 << 31
"""Set for a character that is a unit by itself."""
LONGER = 1 << 30
"""From here on up to ``OWN_UNIT``: the place in ``longer_table`` of what has several letters."""
NUM_FOLDED = 1 << 16
"""Size of the table. A character above it (rare Han, emoji, historic scripts) is its own unit."""

_FULL_WIDTH = (0xFF01, 0xFF5E)
_FULL_WIDTH_OFFSET = 0xFEE0

# fmt: off
_SEPARATORS = (
    (0x00, 0x2F), (0x3A, 0x40), (0x5B, 0x60), (0x7B, 0xA9), (0xAB, 0xAC), (0xAE, 0xB4),
    (0xB6, 0xB9), (0xBB, 0xBF), (0xD7, 0xD7), (0xF7, 0xF7), (0x37E, 0x37E), (0x387, 0x387),
    (0x55A, 0x55F), (0x589, 0x58F), (0x5BE, 0x5BE), (0x5C0, 0x5C0), (0x5C3, 0x5C3), (0x5F3, 0x5F4),
    (0x606, 0x60F), (0x61B, 0x61B), (0x61D, 0x61F), (0x66A, 0x66D), (0x6D4, 0x6D4), (0x700, 0x70D),
    (0x964, 0x965), (0x970, 0x970), (0xDF4, 0xDF4), (0xE3F, 0xE3F), (0xE4F, 0xE4F), (0xE5A, 0xE5B),
    (0xF04, 0xF14), (0x104A, 0x104F), (0x10FB, 0x10FB), (0x1360, 0x1368), (0x1400, 0x1400),
    (0x1680, 0x1680), (0x169B, 0x169C), (0x16EB, 0x16ED), (0x17D4, 0x17DA), (0x1800, 0x180A),
    (0x2000, 0x200A), (0x2010, 0x2029), (0x202F, 0x205F), (0x207A, 0x207E), (0x208A, 0x208E),
    (0x20A0, 0x20CF), (0x2190, 0x2BFF), (0x2E00, 0x2E7F), (0x2FF0, 0x3004), (0x3008, 0x3020),
    (0x3030, 0x3030), (0x303D, 0x303F), (0x30A0, 0x30A0), (0x30FB, 0x30FB), (0xFD3E, 0xFD3F),
    (0xFE10, 0xFE19), (0xFE30, 0xFE6F), (0xFF5F, 0xFF65), (0xFFE0, 0xFFFF),
)
# Soft hyphen, joiners, marks of direction, variation selectors: they do not part a word. Nor does
# the space without width: where it stands between words, these have no spaces.
_IGNORED = (
    (0xAD, 0xAD), (0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F), (0xFE00, 0xFE0F),
    (0xFEFF, 0xFEFF),
)
# Thai, Lao, Myanmar, Khmer, Han, kana, bopomofo, Yi.
_OWN_UNITS = (
    (0xE00, 0xEFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x2E80, 0x2FDF), (0x3005, 0x3007),
    (0x3021, 0x303C), (0x3041, 0x312F), (0x31A0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF),
    (0xA000, 0xA4CF), (0xF900, 0xFAFF), (0xFF66, 0xFF9F),
)
# fmt: on


@lru_cache(maxsize=1)
def fold_table() -> NDArray[np.uint32]:
    """``uint32[65536]``: what each character of the basic plane counts as.

    ``SEPARATOR``, ``IGNORED``, its folded code, with ``OWN_UNIT`` where that applies, or its place
    in ``longer_table`` and ``LONGER``.
    """
    table = np.array([_folded(code) for code in range(NUM_FOLDED)], np.uint32)
    for first, last in _OWN_UNITS:
        table[first : last + 1] |= OWN_UNIT
    first, last = _FULL_WIDTH
    table[first : last + 1] = table[first - _FULL_WIDTH_OFFSET : last + 1 - _FULL_WIDTH_OFFSET]
    for first, last in _SEPARATORS:
        table[first : last + 1] = SEPARATOR
    table[_FULL_WIDTH[0] : _FULL_WIDTH[1] + 1][table[0x21:0x7F] == SEPARATOR] = SEPARATOR
    for first, last in _IGNORED:
        table[first : last + 1] = IGNORED
    table[DOT] = IGNORED
    table[list(TURKISH_I)] = [ord(letter) for letter in TURKISH_I.values()]
    table[list(longer_folds())] = LONGER + np.arange(len(longer_folds()), dtype=np.uint32)
    table.flags.writeable = False
    return table


@lru_cache(maxsize=1)
def longer_table() -> NDArray[np.uint32]:
    """``uint32[characters, 3]``: the letters that one character counts as; 0 behind the last."""
    table = np.zeros((len(longer_folds()), 3), np.uint32)
    for row, letters in zip(table, longer_folds().values(), strict=True):
        row[: len(letters)] = [ord(letter) for letter in letters]
    table.flags.writeable = False
    return table


def _folded(code: int) -> int:
    folded = chr(code).casefold()
    return ord(folded) if len(folded) == 1 and ord(folded) < NUM_FOLDED else code
