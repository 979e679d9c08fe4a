"""What the splitting of words goes by, as arrays for compiled code: characters, words, units."""

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from infra.compiled import compiled_inner, inlined
from tasks.curation.characters import character_classes
from tasks.curation.english import special_words

Text = NDArray[np.uint32]
"""Code points."""
Places = NDArray[np.int32]

_TABLE_SLOTS = 1 << 13
_LONGEST_SPECIAL = 12
LONGEST_UNIT = 4
MOST_PARTS = 3
_UNITS = (
    "km km\u00b2 km\u00b3 m m\u00b2 m\u00b3 dm dm\u00b2 dm\u00b3 cm cm\u00b2 cm\u00b3 mm mm\u00b2 "
    "mm\u00b3 ha \u00b5m nm yd in ft kg g mg \u00b5g t lb oz m/s km/h kmh mph hPa Pa mbar mb MB "
    "kb KB gb GB tb TB T G M K %"
)

_HASH_START = np.uint64(0x9E3779B97F4A7C15)
_HASH_FACTOR = np.uint64(0xD6E8FEB86659FD93)
_HASH_SHIFT = np.uint64(32)


class Rules(NamedTuple):
    """What splits a word, as arrays for compiled code."""

    classes: NDArray[np.uint16]
    """``uint16[0x110000]``, of ``character_classes``."""
    special_keys: NDArray[np.uint64]
    """Open addressing; 0 is an empty slot."""
    special_parts: NDArray[np.int8]
    """``int8[slots, 3]``: lengths of the parts, 0 for none."""
    special_filter: NDArray[np.bool_]
    """``bool[8192]``: whether there may be a special word with this ``_outline``."""
    units: NDArray[np.uint32]
    """``uint32[units, 4]``: units of measure that part from a number before them, 0-padded."""


@compiled_inner
def span_hash(text: Text, start: int, end: int) -> np.uint64:
    """64 well-mixed bits of ``text[start:end]``; never 0."""
    value = _HASH_START
    for place in range(start, end):
        value = (value ^ np.uint64(text[place])) * _HASH_FACTOR
        value ^= value >> _HASH_SHIFT
    value *= _HASH_FACTOR
    return (value ^ (value >> _HASH_SHIFT)) | np.uint64(1)


@inlined
def _outline(text: Text, first: int, after: int) -> int:
    """Thirteen bits of a word: of its length, first two characters and last; 0 for long ones."""
    length = after - first
    if length > _LONGEST_SPECIAL or length < 1:
        return 0
    second = text[first + 1] if length > 1 else text[first]
    mixed = (int(text[first]) * 31 + int(second)) * 31 + int(text[after - 1])
    return 1 + ((mixed * 13 + length) & 0x1FFE)


@compiled_inner
def find_special(text: Text, first: int, after: int, rules: Rules) -> int:
    """Slot of a special word, -1 when it is none."""
    # Most words are told apart by this, at a fifth of the time of a hash.
    if not rules.special_filter[_outline(text, first, after)]:
        return -1
    key = span_hash(text, first, after)
    slot = int(key >> np.uint64(40)) & (_TABLE_SLOTS - 1)
    while rules.special_keys[slot]:
        if rules.special_keys[slot] == key:
            return slot
        slot = (slot + 1) & (_TABLE_SLOTS - 1)
    return -1


@cache
def word_rules() -> Rules:
    """The rules for English, built once a process."""
    keys = np.zeros(_TABLE_SLOTS, np.uint64)
    parts = np.zeros((_TABLE_SLOTS, MOST_PARTS), np.int8)
    maybe = np.zeros(1 << 13, np.bool_)
    for word, pieces in special_words().items():
        if len(word) > _LONGEST_SPECIAL:
            raise ValueError(f"special word {word!r} is longer than {_LONGEST_SPECIAL} characters")
        maybe[_outline(code_points(word), 0, len(word))] = True
        key = int(span_hash(code_points(word), 0, len(word)))
        slot = (key >> 40) & (_TABLE_SLOTS - 1)
        while keys[slot]:
            slot = (slot + 1) & (_TABLE_SLOTS - 1)
        keys[slot] = key
        parts[slot, : len(pieces)] = [len(piece) for piece in pieces]
    units = np.zeros((len(_UNITS.split()), LONGEST_UNIT), np.uint32)
    for row, unit in enumerate(_UNITS.split()):
        units[row, : len(unit)] = code_points(unit)
    return Rules(character_classes(), keys, parts, maybe, units)


def code_points(text: str) -> Text:
    """``uint32[characters]`` of a text without lone surrogates."""
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)
