"""From UTF-8 to MinHash signatures, compiled. Integers only: the same on every machine.

Texts are cut into units (``characters``), n units in a row are a shingle, a shingle is a hash of 32
bits, and each permutation of those is ``scale * hash + shift`` modulo 2^32 (Broder 1997; the
multiply-shift family of Dietzfelbinger et al. 1997). A fixed linear permutation is not min-wise
independent on sets that someone chooses; here it permutes hashes that are mixed first, so that each
shingle of a set is equally likely to be the smallest, and the share of equal minima is unbiased.
"""

from typing import Any

import numpy as np

from infra.compiled import compiled

_WORD_START = np.uint64(0xCBF29CE484222325)
_WORD_STEP = np.uint64(0x100000001B3)
_SHINGLE_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)
_HALF = np.uint64(32)
_MIX_SHIFT = np.uint64(33)
_PRINT_SHIFT = np.uint64(56)
_ASCII_END, _TWO_BYTES_END, _THREE_BYTES_END = 0x80, 0xE0, 0xF0
_OWN_UNIT = np.uint32(1 << 31)
_LONGER = np.uint32(1 << 30)
_NOTHING = np.uint32(0xFFFFFFFF)


@compiled
def _mixed(value: Any) -> Any:
    """The finaliser of MurmurHash3: every bit of ``value`` reaches every bit of the result."""
    value = (value ^ (value >> _MIX_SHIFT)) * _MIX_1
    value = (value ^ (value >> _MIX_SHIFT)) * _MIX_2
    return value ^ (value >> _MIX_SHIFT)


@compiled
def _decoded(text: Any, place: Any) -> Any:
    """The character at ``place``, which is not ASCII, and where the next one starts."""
    code = np.uint32(text[place])
    second = text[place + 1] & 0x3F
    if code < _TWO_BYTES_END:
        return ((code & 0x1F) << 6) | second, place + 2
    third = text[place + 2] & 0x3F
    if code < _THREE_BYTES_END:
        return ((code & 0x0F) << 12) | (second << 6) | third, place + 3
    fourth = text[place + 3] & 0x3F
    return ((code & 0x07) << 18) | (second << 12) | (third << 6) | fourth, place + 4


@compiled
def _lengthened(word: Any, letters: Any) -> Any:
    for letter in letters:
        if letter > 0:
            word = (word ^ np.uint64(letter)) * _WORD_STEP
    return word


@compiled
def _cut(text: Any, fold: Any, longer: Any, units: Any) -> Any:
    """Write the hash of each unit of ``text`` into ``units``; returns how many there are."""
    count, place, end = 0, 0, len(text)
    word, is_open = _WORD_START, False
    while place < end:
        if text[place] < _ASCII_END:
            # The common case by itself; no ASCII character is ignored or a unit of its own.
            folded = fold[text[place]]
            place += 1
            if folded > 0:
                word, is_open = (word ^ np.uint64(folded)) * _WORD_STEP, True
            elif is_open:
                units[count] = _mixed(word)
                count, word, is_open = count + 1, _WORD_START, False
            continue
        code, place = _decoded(text, place)
        folded = fold[code] if code < len(fold) else np.uint32(code) | _OWN_UNIT
        if folded == 1:
            continue
        if folded > 1 and folded < _LONGER:
            word, is_open = (word ^ np.uint64(folded)) * _WORD_STEP, True
            continue
        if folded >= _LONGER and folded < _OWN_UNIT:
            word, is_open = _lengthened(word, longer[folded - _LONGER]), True
            continue
        if is_open:
            units[count] = _mixed(word)
            count, word, is_open = count + 1, _WORD_START, False
        if folded != 0:
            units[count] = _mixed((_WORD_START ^ np.uint64(folded)) * _WORD_STEP)
            count += 1
    if is_open:
        units[count] = _mixed(word)
        count += 1
    return count


@compiled
def _shingle(units: Any, count: Any, ngram: Any, shingles: Any) -> Any:
    """Write the hash of every ``ngram`` units in a row; fewer units than that are one shingle."""
    length = min(ngram, count)
    oldest = np.uint64(1)
    for _ in range(length - 1):
        oldest *= _SHINGLE_STEP
    rolling = np.uint64(0)
    for place in range(count):
        if place >= length:
            rolling -= units[place - length] * oldest
        rolling = rolling * _SHINGLE_STEP + units[place]
        if place >= length - 1:
            shingles[place - length + 1] = np.uint32(_mixed(rolling) >> _HALF)
    return count - length + 1 if count else 0


@compiled
def _minima(shingles: Any, count: Any, scale: Any, shift: Any, signature: Any) -> Any:
    # One permutation after the other: so the loop over shingles keeps its minimum in registers.
    for index in range(len(signature)):
        factor, offset, smallest = scale[index], shift[index], _NOTHING
        for place in range(count):
            smallest = min(smallest, np.uint32(factor * shingles[place] + offset))
        signature[index] = smallest


@compiled
def sign(
    data: Any,
    ends: Any,
    fold: Any,
    longer: Any,
    ngram: Any,
    scale: Any,
    shift: Any,
    signatures: Any,
    counts: Any,
) -> Any:
    """The MinHash signature of each text.

    Args:
        data: ``uint8[bytes]``, texts as valid UTF-8, one after the other.
        ends: ``int64[texts]``, where each ends.
        fold: ``uint32[65536]``, of ``characters.fold_table``.
        longer: ``uint32[characters, 3]``, of ``characters.longer_table``.
        ngram: Units a shingle.
        scale: ``uint32[permutations]``, odd.
        shift: ``uint32[permutations]``.
        signatures: ``uint32[texts, permutations]``, written.
        counts: ``int64[texts]``, written: shingles of each, repeated ones counted again.
    """
    longest, start = 0, 0
    for end in ends:
        longest, start = max(longest, end - start), end
    # A word of one ASCII letter and the space after it are the shortest unit.
    units = np.empty(longest // 2 + 1, np.uint64)
    shingles = np.empty(longest // 2 + 1, np.uint32)
    start = 0
    for index in range(len(ends)):
        count = _cut(data[start : ends[index]], fold, longer, units)
        counts[index] = _shingle(units, count, ngram, shingles)
        _minima(shingles, counts[index], scale, shift, signatures[index])
        start = ends[index]


@compiled
def cut_texts(data: Any, ends: Any, fold: Any, longer: Any, units: Any, unit_ends: Any) -> Any:
    """The units of each text, one after the other; returns how many there are.

    Args:
        data: ``uint8[bytes]``, texts as valid UTF-8, one after the other.
        ends: ``int64[texts]``, where each ends.
        fold: ``uint32[65536]``, of ``characters.fold_table``.
        longer: ``uint32[characters, 3]``, of ``characters.longer_table``.
        units: ``uint64[half of the bytes and one a text]``, written.
        unit_ends: ``int64[texts]``, written: where the units of each end.
    """
    start, place = 0, 0
    for index in range(len(ends)):
        place += _cut(data[start : ends[index]], fold, longer, units[place:])
        unit_ends[index] = place
        start = ends[index]
    return place


@compiled
def condense(minima: Any, rows: Any, keys: Any, prints: Any) -> Any:
    """What is kept of signatures.

    Args:
        minima: ``uint32[texts, bands x rows]``.
        rows: Minima a band.
        keys: ``uint32[texts, bands]``, written: a hash of each band.
        prints: ``uint8[texts, bands x rows]``, written: eight mixed bits of each minimum.
    """
    for index in range(len(minima)):
        for band in range(keys.shape[1]):
            key = np.uint64(band + 1)
            for row in range(band * rows, (band + 1) * rows):
                mixed = _mixed(np.uint64(minima[index, row]))
                key = _mixed(key * _SHINGLE_STEP + mixed)
                prints[index, row] = np.uint8(mixed >> _PRINT_SHIFT)
            keys[index, band] = np.uint32(key >> _HALF)
