"""Texts are cut into pieces as the patterns of byte-level tokenizers cut them, compiled.

Every byte gets the kind of its character; where a piece starts then follows from the kinds of a few
neighbours, for many bytes at once. What such a look cannot tell, contractions and how far digits
and line ends go, is settled afterwards, piece by piece.
"""

from typing import Any

import numpy as np

from infra.compiled import compiled, inlined

GPT2, GPT2_DIGITS, CL100K, QWEN2 = 0, 1, 2, 3
r"""The patterns. Each cuts white space so that its last character goes to what follows.

``GPT2`` is 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ and
``GPT2_DIGITS`` the same after every digit was split off. ``CL100K`` (Llama 3) takes contractions in
any case, one character before letters, up to three digits, line ends after signs; ``QWEN2`` is the
same with single digits.
"""
LETTER, DIGIT, OTHER, SPACE = np.uint8(1), np.uint8(2), np.uint8(4), np.uint8(8)
"""Kinds of characters; a separator of texts has none of these bits."""
NEWLINE, BLANK = np.uint8(16), np.uint8(32)
r"""Bits beside SPACE: \r and \n; U+0020."""
CONTINUED = np.uint8(64)
"""Set for all bytes of a character but its first."""
UNSTABLE = np.uint8(128)
"""Set for a character that normalisation (NFC) may change or move."""
SEPARATOR = 0xFF
"""The byte after each text, which UTF-8 has not."""
MARGIN = 16
"""Bytes that must lie before the first text and after the last one: separators."""

_BASE, _ONES = np.uint64(0x0F0F0F0F0F0F0F0F), np.uint64(0x0101010101010101)
_APOSTROPHE = 0x27


@compiled
def find_kinds(text: Any, of_code_point: Any, kinds: Any) -> None:
    """Write the kind of each byte of ``text``, valid UTF-8 with separators, into ``kinds``.

    Args:
        text: ``uint8[N]``.
        of_code_point: ``uint8[0x110000]``.
        kinds: ``uint8[N]``.
    """
    place, end = np.uint64(0), np.uint64(len(text))
    one, two, three = np.uint64(1), np.uint64(2), np.uint64(3)
    while place < end:
        lead = np.uint32(text[place])
        if lead < 0x80:
            kinds[place] = of_code_point[lead]
            place += one
        elif lead < 0xE0:
            code = ((lead & 0x1F) << 6) | (text[place + one] & 0x3F)
            kind = of_code_point[np.uint32(code)]
            kinds[place], kinds[place + one] = kind, kind | CONTINUED
            place += two
        elif lead < 0xF0:
            code = (
                ((lead & 0x0F) << 12) | ((text[place + one] & 0x3F) << 6) | text[place + two] & 0x3F
            )
            kind = of_code_point[np.uint32(code)]
            kinds[place], kinds[place + one] = kind, kind | CONTINUED
            kinds[place + two] = kind | CONTINUED
            place += three
        elif lead == SEPARATOR:
            kinds[place] = 0
            place += one
        else:
            code = ((lead & 0x07) << 18) | ((text[place + one] & 0x3F) << 12)
            code |= ((text[place + two] & 0x3F) << 6) | (text[place + three] & 0x3F)
            kind = of_code_point[np.uint32(code)]
            kinds[place], kinds[place + one] = kind, kind | CONTINUED
            kinds[place + two] = kinds[place + three] = kind | CONTINUED
            place += np.uint64(4)


@inlined
def word(data: Any, place: Any) -> Any:
    """Eight bytes as a number, the first one lowest; compiles to one load.

    ``kernel`` has it compiled in: what numba keeps of that is found by that file alone.
    """
    at = np.uint64(place)
    low = (
        np.uint64(data[at])
        | np.uint64(data[at + np.uint64(1)]) << np.uint64(8)
        | np.uint64(data[at + np.uint64(2)]) << np.uint64(16)
        | np.uint64(data[at + np.uint64(3)]) << np.uint64(24)
    )
    return (
        low
        | np.uint64(data[at + np.uint64(4)]) << np.uint64(32)
        | np.uint64(data[at + np.uint64(5)]) << np.uint64(40)
        | np.uint64(data[at + np.uint64(6)]) << np.uint64(48)
        | np.uint64(data[at + np.uint64(7)]) << np.uint64(56)
    )


@inlined
def _bit(kinds: Any, bit: Any) -> Any:
    """1 in each byte of eight ``kinds`` that has the bit of this number, else 0."""
    return (kinds >> np.uint64(bit)) & _ONES


@inlined
def _either(chosen: Any, yes: Any, no: Any) -> Any:
    """Byte by byte ``yes`` where ``chosen`` is 1, else ``no``; all are 0 or 1."""
    return (chosen & yes) | (~chosen & no)


@inlined
def _last_spaces(now: Any, kinds: Any, place: Any, digits: Any, newlines: Any) -> Any:
    """Which of eight characters are white space before something that is not.

    That something may be a digit if ``digits``, and they a line end if ``newlines``; all ones or 0.
    """
    after, second, third = word(kinds, place + 1), word(kinds, place + 2), word(kinds, place + 3)
    visible = _bit(third, 0) | _bit(third, 2) | (_bit(third, 1) & digits)
    nearer = _bit(second, 0) | _bit(second, 2) | (_bit(second, 1) & digits)
    visible = _either(_bit(second, 6), visible, nearer)
    nearer = _bit(after, 0) | _bit(after, 2) | (_bit(after, 1) & digits)
    visible = _either(_bit(after, 6), visible, nearer)
    return _bit(now, 3) & ~_bit(now, 6) & (~_bit(now, 4) | newlines) & visible


@inlined
def _after_single_sign(before: Any, kinds: Any, place: Any) -> Any:
    """Which of eight bytes come after a sign that is not after a sign or a blank."""
    second, third = word(kinds, place - 2), word(kinds, place - 3)
    fourth, fifth = word(kinds, place - 4), word(kinds, place - 5)
    joined = _either(
        _bit(third, 6), _bit(fifth, 2) | _bit(fifth, 5), _bit(fourth, 2) | _bit(fourth, 5)
    )
    joined = _either(_bit(second, 6), joined, _bit(third, 2) | _bit(third, 5))
    joined = _either(_bit(before, 6), joined, _bit(second, 2) | _bit(second, 5))
    return _bit(before, 2) & ~joined


@compiled
def _find_starts(kinds: Any, pattern: Any, candidates: Any) -> Any:
    """Write where pieces start by the kinds of their neighbours; returns how many.

    Eight bytes at once, without branches: each byte of a word is 1 or 0.
    """
    by_words = pattern in (CL100K, QWEN2)
    every, none = ~np.uint64(0), np.uint64(0)
    splits = every if pattern in (GPT2_DIGITS, QWEN2) else none
    digits_take_blank = every if pattern == GPT2 else none
    digits_part_space = none if pattern == GPT2_DIGITS else every
    newlines_part = none if by_words else every
    letters_take_any = every if by_words else none
    found, end = 0, len(kinds) - MARGIN
    for place in range(MARGIN, end, 8):
        now, before = word(kinds, place), word(kinds, place - 1)
        differ = (now ^ before) & _BASE
        differ = (differ | differ >> np.uint64(1)) | (differ | differ >> np.uint64(1)) >> np.uint64(
            2
        )
        letters, lead = _bit(now, 0), ~_bit(now, 6)
        visible = letters | _bit(now, 2) | (_bit(now, 1) & digits_take_blank)
        taken = _bit(before, 5) & visible
        any_taken = (_bit(before, 3) & ~_bit(before, 4)) | _after_single_sign(before, kinds, place)
        taken |= any_taken & letters & letters_take_any
        starts = differ & ~taken
        starts |= _last_spaces(now, kinds, place, digits_part_space, newlines_part)
        starts = (starts | (_bit(now, 1) & lead & splits)) & _ONES
        for byte in range(8):
            candidates[found] = place + byte
            found += np.int64(starts >> np.uint64(8 * byte) & np.uint64(1))
    while found and candidates[found - 1] >= end:
        found -= 1
    candidates[found] = end
    return found + 1


@inlined
def _after_contraction(text: Any, place: Any, any_case: Any) -> Any:
    """Where 's, 't, 're, 've, 'm, 'll or 'd ends whose apostrophe is at ``place``; or 0."""
    fold = 0x20 if any_case else 0
    first, second = text[place + 1] | fold, text[place + 2] | fold
    if first == ord("s") or first == ord("t") or first == ord("m") or first == ord("d"):
        return place + 2
    if first == ord("l") and second == ord("l"):
        return place + 3
    if (first == ord("r") or first == ord("v")) and second == ord("e"):
        return place + 3
    # The long s is an s to a pattern that ignores case.
    if any_case and text[place + 1] == 0xC5 and text[place + 2] == 0xBF:
        return place + 3
    return 0


@inlined
def _after_newlines(kinds: Any, place: Any) -> Any:
    while kinds[place] & NEWLINE:
        place += 1
    return place


@inlined
def _cut_digits(kinds: Any, begin: Any, stop: Any, pieces: Any, count: Any) -> Any:
    """Append where every third digit but the last starts; returns the new number of pieces."""
    digits = 0
    for place in range(begin, stop):
        if kinds[place] & CONTINUED == 0:
            if digits and digits % 3 == 0:
                pieces[count] = place
                count += 1
            digits += 1
    return count


@compiled
def cut(text: Any, kinds: Any, pattern: Any, candidates: Any, pieces: Any) -> Any:
    """Find where each piece starts; separators in a row are a piece too. Returns how many.

    Args:
        text: ``uint8[N]``: valid UTF-8, after each text a separator; ``MARGIN`` separators at
            both ends.
        kinds: ``uint8[N]``, see ``find_kinds``.
        pattern: One of the patterns above.
        candidates: ``int64[N]``: room.
        pieces: ``int64[N]``: gets the first byte of each piece, after the last one the first of
            the closing margin.
    """
    found = _find_starts(kinds, pattern, candidates)
    end = len(text) - MARGIN
    by_words = pattern in (CL100K, QWEN2)
    begin, count = MARGIN, 0
    for index in range(found):
        stop = candidates[index]
        if stop <= begin:
            continue
        pieces[count] = begin
        count += 1
        last = kinds[stop - 1]
        if text[begin] == _APOSTROPHE and (by_words or stop == begin + 1):
            after = _after_contraction(text, begin, by_words)
            if after:
                begin = after
                if begin < stop:
                    pieces[count] = begin
                    count += 1
                    begin = stop
                continue
        if by_words and last & LETTER == 0:
            if last & OTHER:
                stop = _after_newlines(kinds, stop)
            elif last & SPACE and last & NEWLINE == 0:
                place = stop - 1
                while place > begin and kinds[place] & NEWLINE == 0:
                    place -= 1
                if kinds[place] & NEWLINE:
                    pieces[count] = place + 1
                    count += 1
            elif last & DIGIT and pattern == CL100K:
                count = _cut_digits(kinds, begin, stop, pieces, count)
        begin = stop
    pieces[count] = end
    return count
