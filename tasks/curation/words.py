"""Words of a text, compiled: the words that Gopher's and C4's rules count.

A word is what white space leaves together, less its punctuation, contractions apart: the words of
spaCy's rule-based tokenizer for English, by the same rules in one pass over the code points.
Languages that write without spaces get no words that mean anything.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.curation.characters import (
    BEFORE_STOP,
    CURRENCY,
    DIGIT,
    ICON,
    IN_WORD,
    LETTER,
    LOWER,
    PREFIX,
    QUOTE,
    SPACE,
    SUFFIX,
    UPPER,
    character_classes,
)
from tasks.curation.compiled import compiled_inner
from tasks.curation.english import special_words

Text = NDArray[np.uint32]
"""Code points."""
Places = NDArray[np.int32]

_TABLE_SLOTS = 1 << 13
_LONGEST_SPECIAL = 12
_LONGEST_UNIT = 4
_MOST_PARTS = 3
_MOST_MERGED = 4
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


@compiled_inner
def split_words(
    text: Text, start: int, end: int, rules: Rules, starts: Places, ends: Places, scratch: Places
) -> int:
    """Write where the words of ``text[start:end]`` lie; returns how many there are.

    ``starts``, ``ends`` and ``scratch`` have room for ``end - start`` places each.
    """
    classes = rules.classes
    count = 0
    place = start
    while place < end:
        if classes[text[place]] & SPACE:
            place += 1
            continue
        first = place
        seen = 0
        while place < end:
            kind = classes[text[place]]
            if kind & SPACE:
                break
            seen |= kind
            place += 1
        if seen & IN_WORD:
            before = count
            count = _split_chunk(text, first, place, rules, starts, ends, count, scratch)
            if count - before > 1:
                count = _merge(text, rules, starts, ends, before, count)
        else:
            slot = _find_special(text, first, place, rules)
            count = _emit(first, place, slot, rules, starts, ends, count)
    return count


@compiled_inner
def _split_chunk(
    text: Text,
    first: int,
    after: int,
    rules: Rules,
    starts: Places,
    ends: Places,
    count: int,
    scratch: Places,
) -> int:
    """Words of one run of characters between white space."""
    num_suffixes = 0
    slot = -1
    end = after
    while first < after:
        slot = _find_special(text, first, after, rules)
        if slot >= 0:
            break
        prefix = _prefix_length(text, first, after, rules)
        if prefix and first + prefix < after:
            slot = _find_special(text, first + prefix, after, rules)
            if slot >= 0:
                count = _emit(first, first + prefix, -1, rules, starts, ends, count)
                first += prefix
                break
        suffix = _suffix_length(text, first + prefix, after, rules)
        if suffix and after - suffix > first:
            slot = _find_special(text, first, after - suffix, rules)
            if slot >= 0:
                after -= suffix
                scratch[num_suffixes] = after
                num_suffixes += 1
                break
        if not prefix and not suffix:
            break
        if prefix:
            count = _emit(first, first + prefix, -1, rules, starts, ends, count)
            first += prefix
        if suffix:
            after -= suffix
            scratch[num_suffixes] = after
            num_suffixes += 1
    if first < after:
        if slot >= 0:
            count = _emit(first, after, slot, rules, starts, ends, count)
        else:
            count = _split_inside(text, first, after, rules, starts, ends, count)
    for index in range(num_suffixes - 1, -1, -1):
        next_suffix = scratch[index - 1] if index else end
        count = _emit(scratch[index], next_suffix, -1, rules, starts, ends, count)
    return count


@compiled_inner
def _emit(
    first: int, after: int, slot: int, rules: Rules, starts: Places, ends: Places, count: int
) -> int:
    if slot < 0:
        starts[count], ends[count] = first, after
        return count + 1
    for part in range(_MOST_PARTS):
        length = rules.special_parts[slot, part]
        if length:
            starts[count], ends[count] = first, first + length
            first += length
            count += 1
    return count


@compiled_inner
def _outline(text: Text, first: int, after: int) -> int:
    """Thirteen bits of a word: of its length, first two characters and last; 0 for long ones."""
    length = after - first
    if length > _LONGEST_SPECIAL or length < 1:
        return 0
    second = text[first + 1] if length > 1 else text[first]
    mixed = (int(text[first]) * 31 + int(second)) * 31 + int(text[after - 1])
    return 1 + ((mixed * 13 + length) & 0x1FFE)


@compiled_inner
def _find_special(text: Text, first: int, after: int, rules: Rules) -> int:
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


@compiled_inner
def _prefix_length(text: Text, first: int, after: int, rules: Rules) -> int:
    """How much of the start is a word of its own, 0 for nothing."""
    char = text[first]
    if rules.classes[char] & PREFIX:
        return 1
    following = text[first + 1] if first + 1 < after else np.uint32(0)
    if char == ord("+"):
        return 0 if rules.classes[following] & DIGIT else 1
    if char == ord("."):
        return _run_of_stops(text, first, after)
    if following == ord("$") and (char == ord("C") or char == ord("A")):
        return 2
    is_us = following == ord("S") and char == ord("U")
    return 3 if is_us and first + 2 < after and text[first + 2] == ord("$") else 0


@compiled_inner
def _run_of_stops(text: Text, first: int, after: int) -> int:
    """Length of an ellipsis of two full stops or more, 0 when there is none."""
    place = first
    while place < after and text[place] == ord("."):
        place += 1
    return place - first if place - first > 1 else 0


@compiled_inner
def _suffix_length(text: Text, first: int, after: int, rules: Rules) -> int:
    """How much of the end of ``text[first:after]`` is a word of its own, 0 for nothing."""
    length = after - first
    if length < 1:
        return 0
    classes = rules.classes
    last = text[after - 1]
    kind = classes[last]
    if last == ord("."):
        return _stop_suffix_length(text, first, after, rules)
    before = text[after - 2] if length > 1 else np.uint32(0)
    if (last == ord("s") or last == ord("S")) and (before == ord("'") or before == 0x2019):
        return 2
    is_ellipsis_pair = last == 0x2026 and before == 0x2026
    if kind & SUFFIX:
        return 2 if is_ellipsis_pair else 1
    if last == ord("+") or kind & CURRENCY:
        if classes[before] & DIGIT:
            return 1
        third = text[after - 3] if length > 2 else np.uint32(0)
        if last == ord("$") and classes[third] & DIGIT:
            return 2 if before == ord("C") or before == ord("A") else 0
        return 0
    return _unit_length(text, first, after, rules)


@compiled_inner
def _stop_suffix_length(text: Text, first: int, after: int, rules: Rules) -> int:
    """As ``_suffix_length``, of a word that ends with a full stop."""
    length = after - first
    if length < 2:
        return 0
    before = text[after - 2]
    if before == ord("."):
        stops = 2
        while stops < length and text[after - 1 - stops] == ord("."):
            stops += 1
        return stops
    kind = rules.classes[before]
    if kind & BEFORE_STOP:
        return 1
    two_upper = length > 2 and kind & UPPER and rules.classes[text[after - 3]] & UPPER
    return 1 if two_upper else 0


@compiled_inner
def _unit_length(text: Text, first: int, after: int, rules: Rules) -> int:
    """Length of the longest unit of measure at the end that follows a digit."""
    longest = 0
    for length in range(1, _LONGEST_UNIT + 1):
        if after - length - 1 < first:
            break
        if not rules.classes[text[after - length - 1]] & DIGIT:
            continue
        for unit in range(rules.units.shape[0]):
            matches = length == _LONGEST_UNIT or rules.units[unit, length] == 0
            for place in range(length):
                matches = matches and rules.units[unit, place] == text[after - length + place]
            if matches:
                longest = length
    return longest


@compiled_inner
def _split_inside(
    text: Text, first: int, after: int, rules: Rules, starts: Places, ends: Places, count: int
) -> int:
    """Split at hyphens, slashes and the like between letters, unless it is an address."""
    start = first
    place = first
    is_checked = False
    while place < after:
        length = _infix_length(text, first, place, after, rules)
        if not length:
            place += 1
            continue
        if not is_checked:
            is_checked = True
            if _is_address(text, first, after, rules):
                break
        if place == first:
            place += length
            continue
        if place != start:
            starts[count], ends[count] = start, place
            count += 1
        starts[count], ends[count] = place, place + length
        count += 1
        place += length
        start = place
    if start < after:
        starts[count], ends[count] = start, after
        count += 1
    return count


@compiled_inner
def _infix_length(text: Text, first: int, place: int, after: int, rules: Rules) -> int:
    """Length of what splits a word at ``place``, 0 for nothing."""
    classes = rules.classes
    char = text[place]
    kind = classes[char]
    if not kind & IN_WORD or kind & DIGIT:
        return 0
    if char == ord("."):
        stops = _run_of_stops(text, place, after)
        if stops:
            return stops
    if char == 0x2026 or kind & ICON:
        return 1
    if place == first or place + 1 >= after:
        return 0
    before, following = classes[text[place - 1]], classes[text[place + 1]]
    is_sign = char == ord("+") or char == ord("-") or char == ord("*") or char == ord("^")
    is_before_number = following & DIGIT != 0 or text[place + 1] == ord("-")
    if is_sign and before & DIGIT and is_before_number:
        return 1
    if char == ord("."):
        return 1 if before & (LOWER | QUOTE) and following & (UPPER | QUOTE) else 0
    if char == ord(","):
        return 1 if before & LETTER and following & LETTER else 0
    if not before & (LETTER | DIGIT):
        return 0
    if char == ord(":") or char == ord("<") or char == ord(">"):
        return 1 if following & LETTER else 0
    if char == ord("=") or char == ord("/"):
        return 1 if following & LETTER else 0
    return _hyphens_length(text, place, after, rules)


@compiled_inner
def _hyphens_length(text: Text, place: int, after: int, rules: Rules) -> int:
    """Length of a dash of one to three characters before a letter."""
    char = text[place]
    most = 0
    if char == ord("-"):
        most = 3
    elif char == 0x2014:
        most = 2
    elif char == 0x2013 or char == ord("~"):
        most = 1
    length = 1
    while length < most and place + length < after and text[place + length] == char:
        length += 1
    is_dash = most > 0 and place + length < after
    return length if is_dash and rules.classes[text[place + length]] & LETTER else 0


@compiled_inner
def _is_address(text: Text, first: int, after: int, rules: Rules) -> bool:
    """Whether it is the address of a site, a page or a mailbox, which is one word."""
    if _is_host_on(text, first, after, rules):
        return True
    is_scheme = True
    for place in range(first, after):
        char = text[place]
        if char == ord("@") and place > first and _is_host_on(text, place + 1, after, rules):
            return True
        if is_scheme and char == ord(":") and place - first > 1 and place + 3 < after:
            has_slashes = text[place + 1] == ord("/") and text[place + 2] == ord("/")
            if has_slashes and _is_host_on(text, place + 3, after, rules):
                return True
        is_scheme = is_scheme and (
            rules.classes[char] & (LETTER | DIGIT) != 0
            or char == ord("+")
            or char == ord("-")
            or char == ord(".")
            or char == ord("_")
        )
    return False


@compiled_inner
def _is_host_on(text: Text, first: int, after: int, rules: Rules) -> bool:
    """Whether ``text[first:after]`` is a host, perhaps with a port and a path."""
    place = first
    last_dot = -1
    dots = digits = 0
    while place < after:
        char = text[place]
        if char == ord(".") and place > first and text[place - 1] != ord("."):
            is_label = text[place - 1] != ord("-") and text[place - 1] != ord("_")
            if not is_label or place + 1 >= after:
                return False
            last_dot = place
            dots += 1
        elif char == ord("-") or char == ord("_"):
            if place == first or text[place - 1] == ord("."):
                return False
        elif not (rules.classes[char] & (LETTER | DIGIT) or 0xA1 <= char <= 0xFFFF):
            break
        elif rules.classes[char] & DIGIT:
            digits += 1
        place += 1
    if last_dot < 0:
        return False
    is_number = dots == 3 and digits == place - first - dots
    if not is_number:
        if place - last_dot - 1 < 2:
            return False
        for letter in range(last_dot + 1, place):
            if not rules.classes[text[letter]] & LOWER:
                return False
    return _is_port_and_path(text, place, after, rules)


@compiled_inner
def _is_port_and_path(text: Text, place: int, after: int, rules: Rules) -> bool:
    if place < after and text[place] == ord(":"):
        port = place + 1
        while port < after and rules.classes[text[port]] & DIGIT:
            port += 1
        if not 3 <= port - place <= 6:
            return False
        place = port
    if place >= after:
        return True
    return text[place] == ord("/") or text[place] == ord("?") or text[place] == ord("#")


@compiled_inner
def _merge(text: Text, rules: Rules, starts: Places, ends: Places, first: int, count: int) -> int:
    """Put together what was split but is a special word, such as an emoticon after a word."""
    place = first
    written = first
    blocked = -1
    while place < count:
        taken = 1
        for parts in range(min(_MOST_MERGED, count - place), 1, -1):
            slot = _find_special(text, starts[place], ends[place + parts - 1], rules)
            if slot >= 0 and rules.special_parts[slot, 1] == 0:
                # Of special words that overlap in a chain, as in a line of apostrophes, one counts.
                if place > blocked:
                    taken = parts
                blocked = place + parts - 1
                break
        starts[written], ends[written] = starts[place], ends[place + taken - 1]
        written += 1
        if taken > 1:
            # Matches that begin inside the taken one are part of its chain.
            for inside in range(place + 1, place + taken):
                for parts in range(2, min(_MOST_MERGED, count - inside) + 1):
                    slot = _find_special(text, starts[inside], ends[inside + parts - 1], rules)
                    if slot >= 0:
                        blocked = max(blocked, inside + parts - 1)
        place += taken
    return written


@cache
def word_rules() -> Rules:
    """The rules for English, built once a process."""
    keys = np.zeros(_TABLE_SLOTS, np.uint64)
    parts = np.zeros((_TABLE_SLOTS, _MOST_PARTS), np.int8)
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
    units = np.zeros((len(_UNITS.split()), _LONGEST_UNIT), np.uint32)
    for row, unit in enumerate(_UNITS.split()):
        units[row, : len(unit)] = code_points(unit)
    return Rules(character_classes(), keys, parts, maybe, units)


def code_points(text: str) -> Text:
    """``uint32[characters]`` of a text without lone surrogates."""
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)
