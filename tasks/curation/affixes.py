"""What parts from a word at its start, its end and inside, compiled; spaCy's rules for English."""

import numpy as np

from infra.compiled import inlined
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
    SUFFIX,
    UPPER,
)
from tasks.curation.word_rules import LONGEST_UNIT, Rules, Text


@inlined
def prefix_length(text: Text, first: int, after: int, rules: Rules) -> int:
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


@inlined
def _run_of_stops(text: Text, first: int, after: int) -> int:
    """Length of an ellipsis of two full stops or more, 0 when there is none."""
    place = first
    while place < after and text[place] == ord("."):
        place += 1
    return place - first if place - first > 1 else 0


@inlined
def suffix_length(text: Text, first: int, after: int, rules: Rules) -> int:
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


@inlined
def _stop_suffix_length(text: Text, first: int, after: int, rules: Rules) -> int:
    """As ``suffix_length``, of a word that ends with a full stop."""
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


@inlined
def _unit_length(text: Text, first: int, after: int, rules: Rules) -> int:
    """Length of the longest unit of measure at the end that follows a digit."""
    longest = 0
    for length in range(1, LONGEST_UNIT + 1):
        if after - length - 1 < first:
            break
        if not rules.classes[text[after - length - 1]] & DIGIT:
            continue
        for unit in range(rules.units.shape[0]):
            matches = length == LONGEST_UNIT or rules.units[unit, length] == 0
            for place in range(length):
                matches = matches and rules.units[unit, place] == text[after - length + place]
            if matches:
                longest = length
    return longest


@inlined
def infix_length(text: Text, first: int, place: int, after: int, rules: Rules) -> int:
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


@inlined
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
