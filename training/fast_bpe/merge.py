"""Merging the tokens of a piece by rank, as ``tokenizers`` does, compiled.

Of all neighbours that have a merge the one of lowest rank goes first, of equals the leftmost, until
none is left (Sennrich et al. 2016). Nothing takes quadratic time: short pieces are scanned a
bounded number of times, long ones have a heap.
"""

from typing import Any

import numpy as np

from infra.compiled import compiled, inlined

RANK_BITS, TOKEN_BITS = 22, 21
NO_RANK = np.uint32((1 << RANK_BITS) - 1)
EMPTY = np.uint64(0xFFFFFFFFFFFFFFFF)
AFTER, BEFORE = 24, 40
"""Where the neighbours of a character begin in ``kernel.Tables.whole_characters``, in bits."""
ANY_BYTE, NO_BYTE = 0xFF, 0xFE
"""In place of the first neighbour: every one; of either: none. No text has these bytes."""
SCANNED = 128
"""Pieces of up to so many tokens are merged by scanning; the place is in 7 bits."""

_MIX, _HALF = np.uint64(0x9E3779B97F4A7C15), np.uint64(32)
_TOKEN_32 = np.uint32((1 << TOKEN_BITS) - 1)
_ONE, _RANK_SHIFT, _RANK = np.uint64(1), np.uint64(RANK_BITS), np.uint64(NO_RANK)
_PLACE_SHIFT = np.uint32(7)
_NO_MERGE = NO_RANK << _PLACE_SHIFT
_DEAD = np.uint32(0xFFFFFFFF)


@inlined
def _slot_of(first: Any, second: Any, mask: Any) -> Any:
    """Key of a pair of tokens and the slot where to look for it first."""
    key = np.uint64(first) << np.uint64(TOKEN_BITS) | np.uint64(second)
    return key, (key * _MIX) >> _HALF & mask


@compiled
def fill_pairs(pairs: Any, tokens: Any, ranks: Any) -> None:
    """Enter merges of ``tokens``, ``uint64[merges, 2]``, into the empty table ``pairs``.

    That is ``uint64[2^k]``, open addressing: ``first << 43 | second << 22 | rank``, or ``EMPTY``.
    """
    mask = np.uint64(len(pairs) - 1)
    for index in range(len(ranks)):
        key, slot = _slot_of(tokens[index, 0], tokens[index, 1], mask)
        while pairs[slot] != EMPTY:
            slot = (slot + _ONE) & mask
        pairs[slot] = key << _RANK_SHIFT | ranks[index]


@inlined
def _rank_of(pairs: Any, first: Any, second: Any) -> Any:
    """Rank of the merge of two tokens, or ``NO_RANK``, which is also what is in an empty slot."""
    mask = np.uint64(len(pairs) - 1)
    key, slot = _slot_of(first, second, mask)
    while pairs[slot] >> _RANK_SHIFT != key and pairs[slot] != EMPTY:
        slot = (slot + _ONE) & mask
    return np.uint32(pairs[slot] & _RANK)


@inlined
def _is_among(neighbours: Any, byte: Any) -> Any:
    first, second = neighbours & np.uint64(0xFF), neighbours >> np.uint64(8) & np.uint64(0xFF)
    found = np.uint64(byte)
    return (first == found) | (second == found) | (first == np.uint64(ANY_BYTE))


@inlined
def begin_units(
    text: Any, begin: Any, count: Any, byte_tokens: Any, whole_characters: Any, tokens: Any
) -> Any:
    """Tokens that merging a piece begins with; returns how many, or 0 if more than ``SCANNED``.

    These are bytes, and characters of several bytes where it is sure that these come to be one
    token before anything beside them takes part (``whole_characters``).
    """
    units, place, stop = 0, begin, begin + count
    while place < stop:
        if units == SCANNED:
            return 0
        lead = np.uint32(text[place])
        if lead >= 0xC0:
            code, width = np.uint32(0), 2
            if lead < 0xE0:
                code = np.uint32(((lead & 0x1F) << 6) | (text[place + 1] & 0x3F))
            elif lead < 0xF0:
                width = 3
                code = np.uint32(((lead & 0x0F) << 12) | ((text[place + 1] & 0x3F) << 6))
                code |= np.uint32(text[place + 2] & 0x3F)
            else:
                width = 4
                code = np.uint32(((lead & 0x07) << 18) | ((text[place + 1] & 0x3F) << 12))
                code |= np.uint32(((text[place + 2] & 0x3F) << 6) | (text[place + 3] & 0x3F))
            entry = whole_characters[code]
            is_whole = entry != 0
            if place > begin and _is_among(entry >> np.uint64(AFTER), text[place - 1]):
                is_whole = False
            if place + width < stop and _is_among(entry >> np.uint64(BEFORE), text[place + width]):
                is_whole = False
            if is_whole:
                tokens[units] = np.uint32(entry) & _TOKEN_32
                units, place = units + 1, place + width
                continue
        tokens[units] = byte_tokens[lead]
        units, place = units + 1, place + 1
    return units


@compiled
def merge_scanned(count: Any, merged: Any, pairs: Any, scratch: Any, out: Any, at: Any) -> Any:
    """Merge ``count`` tokens, put the result into ``out[at:]``; returns where it ends.

    ``scratch`` is ``uint32[4, SCANNED + 16]``: the rank and place of each merge that may come
    next, the tokens, and for each token the places of the next one and of the one before.
    """
    keys, tokens, following, before = scratch[0], scratch[1], scratch[2], scratch[3]
    mask = np.uint64(len(pairs) - 1)
    for place in range(count):
        following[place], before[place] = place + 1, place - 1
    # Looked up here and not by _rank_of: counting references would take as long again.
    for place in range(count - 1):
        key, slot = _slot_of(tokens[place], tokens[place + 1], mask)
        while pairs[slot] >> _RANK_SHIFT != key and pairs[slot] != EMPTY:
            slot = (slot + _ONE) & mask
        keys[place] = np.uint32(pairs[slot] & _RANK) << _PLACE_SHIFT | np.uint32(place)
    rounded = (count + 15) & ~15
    for place in range(count - 1, rounded):
        keys[place] = _DEAD
    while True:
        lowest = _DEAD
        for place in range(rounded):
            lowest = min(lowest, keys[place])
        if lowest >= _NO_MERGE:
            break
        place = np.int64(lowest & np.uint32(SCANNED - 1))
        second = np.int64(following[place])
        third = np.int64(following[second])
        token = merged[lowest >> _PLACE_SHIFT]
        tokens[place], following[place] = token, third
        keys[second] = keys[place] = _DEAD
        if third < count:
            before[third] = place
            key, slot = _slot_of(token, tokens[third], mask)
            while pairs[slot] >> _RANK_SHIFT != key and pairs[slot] != EMPTY:
                slot = (slot + _ONE) & mask
            keys[place] = np.uint32(pairs[slot] & _RANK) << _PLACE_SHIFT | np.uint32(place)
        if place > 0:
            first = np.int64(before[place])
            key, slot = _slot_of(tokens[first], token, mask)
            while pairs[slot] >> _RANK_SHIFT != key and pairs[slot] != EMPTY:
                slot = (slot + _ONE) & mask
            keys[first] = np.uint32(pairs[slot] & _RANK) << _PLACE_SHIFT | np.uint32(first)
    place = 0
    while place < count:
        out[at] = tokens[place]
        at += 1
        place = np.int64(following[place])
    return at


@inlined
def _sink(heap: Any, place: Any, size: Any) -> Any:
    """Restore the heap below ``place``, the smallest first."""
    value = heap[place]
    child = 2 * place + 1
    while child < size:
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= value:
            break
        heap[place] = heap[child]
        place, child = child, 2 * child + 1
    heap[place] = value


@inlined
def _rise(heap: Any, place: Any) -> Any:
    """Restore the heap above ``place``, the smallest first."""
    value = heap[place]
    while place > 0 and heap[(place - 1) // 2] > value:
        heap[place] = heap[(place - 1) // 2]
        place = (place - 1) // 2
    heap[place] = value


@compiled
def merge_heaped(
    text: Any,
    begin: Any,
    count: Any,
    byte_tokens: Any,
    merged: Any,
    pairs: Any,
    out: Any,
    at: Any,
) -> Any:
    """Tokens of a piece of any length into ``out[at:]``; returns where they end. O(n log n)."""
    tokens, ranks = np.empty(count, np.uint32), np.full(count, NO_RANK, np.uint32)
    following, before = np.arange(1, count + 1), np.arange(-1, count - 1)
    # Each merge adds at most two; what no longer holds is passed over when it comes up.
    heap, size = np.empty(3 * count, np.uint64), 0
    for place in range(count):
        tokens[place] = byte_tokens[text[begin + place]]
    for place in range(count - 1):
        ranks[place] = _rank_of(pairs, tokens[place], tokens[place + 1])
        if ranks[place] != NO_RANK:
            heap[size] = np.uint64(ranks[place]) << np.uint64(40) | np.uint64(place)
            size += 1
    for place in range(size // 2 - 1, -1, -1):
        _sink(heap, place, size)
    while size:
        top = heap[0]
        size -= 1
        heap[0] = heap[size]
        _sink(heap, 0, size)
        place = np.int64(top & np.uint64((1 << 40) - 1))
        rank = np.uint32(top >> np.uint64(40))
        if ranks[place] != rank:
            continue
        second = following[place]
        third = following[second]
        tokens[place], following[place] = merged[rank], third
        ranks[second] = ranks[place] = NO_RANK
        if third < count:
            before[third] = place
        for left in (before[place], place):
            right = following[left] if left >= 0 else count
            if right < count:
                ranks[left] = _rank_of(pairs, tokens[left], tokens[right])
                if ranks[left] != NO_RANK:
                    heap[size] = np.uint64(ranks[left]) << np.uint64(40) | np.uint64(left)
                    _rise(heap, size)
                    size += 1
    place = 0
    while place < count:
        out[at] = tokens[place]
        at += 1
        place = following[place]
    return at
