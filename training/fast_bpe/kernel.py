"""From UTF-8 to token ids, compiled: cut into pieces, look each piece up, merge what is new.

A piece is merged as ``tokenizers`` merges it: of all neighbours that have a merge the one of lowest
rank, leftmost first, until none is left (Sennrich et al. 2016). Pieces that were merged before are
found again by their bytes, compared in full. Nothing takes quadratic time: short pieces are scanned
a bounded number of times, long ones have a heap.
"""

from typing import Any, NamedTuple

import numpy as np

from infra.compiled import compiled, inlined
from training.fast_bpe.cut import SEPARATOR, word


class Tables(NamedTuple):
    """What a tokenizer is for the kernel; all but the last two are only read."""

    byte_tokens: np.ndarray
    """``uint32[256]``: token of each byte."""
    whole_characters: np.ndarray
    """``uint64[0x110000]``: token of each character that may be begun with, or 0.

    Above the token two bytes from ``AFTER`` on and two from ``BEFORE`` on: not where one of these
    comes before the character, or after it.
    """
    merged: np.ndarray
    """``uint32[merges]``: token that the merge of this rank makes."""
    pairs: np.ndarray
    """``uint64[2^k]``: open addressing; ``first << 43 | second << 22 | rank``, or ``EMPTY``."""
    short_pieces: np.ndarray
    """``uint64[4 * 2^k]``: pieces of at most 15 bytes and 4 tokens: 2 words of key, 2 of tokens."""
    long_pieces: np.ndarray
    """``uint64[8 * 2^k]``: pieces of at most 31 bytes and 8 tokens: 4 words of key, 4 of tokens."""


RANK_BITS, TOKEN_BITS = 22, 21
NO_RANK = np.uint32((1 << RANK_BITS) - 1)
EMPTY = np.uint64(0xFFFFFFFFFFFFFFFF)
AFTER, BEFORE = 24, 40
"""Where the neighbours of a character begin in ``Tables.whole_characters``, in bits."""
ANY_BYTE, NO_BYTE = 0xFF, 0xFE
"""In place of the first neighbour: every one; of either: none. No text has these bytes."""

_PAIR_MIX, _MIX_1 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xFF51AFD7ED558CCD)
_MIX_2, _MIX_3 = np.uint64(0xC4CEB9FE1A85EC53), np.uint64(0x9FB21C651E98DF25)
_HALF, _COUNT_SHIFT, _TOKEN = np.uint64(32), np.uint64(56), np.uint64(0xFFFFFF)
_TOKEN_32 = np.uint32((1 << TOKEN_BITS) - 1)
_ONE, _RANK_SHIFT, _RANK = np.uint64(1), np.uint64(RANK_BITS), np.uint64(NO_RANK)
_PLACE_SHIFT = np.uint32(7)
_NO_MERGE = NO_RANK << _PLACE_SHIFT
_DEAD = np.uint32(0xFFFFFFFF)
_SCANNED = 128
"""Pieces of up to so many tokens are merged by scanning; the place is in 7 bits."""


@inlined
def _first_bytes(word: Any, count: Any) -> Any:
    """``word`` with all but its first ``count`` bytes (0 to 8) cleared."""
    if count >= 8:
        return word
    return word & ((np.uint64(1) << np.uint64(8 * count)) - np.uint64(1))


@inlined
def _slot_of(first: Any, second: Any, mask: Any) -> Any:
    """Key of a pair of tokens and the slot where to look for it first."""
    key = np.uint64(first) << np.uint64(TOKEN_BITS) | np.uint64(second)
    return key, (key * _PAIR_MIX) >> _HALF & mask


@compiled
def fill_pairs(pairs: Any, tokens: Any, ranks: Any) -> None:
    """Enter merges of ``tokens``, ``uint64[merges, 2]``, into the empty table ``pairs``."""
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
def _begin_units(
    text: Any, begin: Any, count: Any, byte_tokens: Any, whole_characters: Any, tokens: Any
) -> Any:
    """Tokens that merging a piece begins with; returns how many, or 0 if more than ``_SCANNED``.

    These are bytes, and characters of several bytes where it is sure that these come to be one
    token before anything beside them takes part (``whole_characters``).
    """
    units, place, stop = 0, begin, begin + count
    while place < stop:
        if units == _SCANNED:
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
def _merge_scanned(count: Any, merged: Any, pairs: Any, scratch: Any, out: Any, at: Any) -> Any:
    """Merge ``count`` tokens, put the result into ``out[at:]``; returns where it ends.

    ``scratch`` is ``uint32[4, _SCANNED + 16]``: the rank and place of each merge that may come
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
        place = np.int64(lowest & np.uint32(_SCANNED - 1))
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
def _merge_heaped(
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


@inlined
def _short_key(first: Any, second: Any, count: Any, size: Any) -> Any:
    """The key of a piece of 1 to 15 bytes, and where its two slots begin among ``size`` words.

    Args:
        first: Its first eight bytes and what comes after them, see ``word``.
        second: The eight bytes after these.
        count: How many bytes belong to it.
        size: Of the table.
    """
    if count > 8:
        second = _first_bytes(second, count - 8) | np.uint64(count) << _COUNT_SHIFT
    else:
        first, second = _first_bytes(first, count), np.uint64(count) << _COUNT_SHIFT
    mixed = (first * _MIX_1) ^ (second * _MIX_2)
    mixed = (mixed ^ (mixed >> _HALF)) * _MIX_3
    # The two slots share a line of the processor's cache.
    return first, second, ((mixed >> _HALF) & np.uint64(size // 8 - 1)) * np.uint64(8)


@inlined
def _long_key(first: Any, second: Any, third: Any, fourth: Any, count: Any, size: Any) -> Any:
    """The last words of the key of a piece of 16 to 31 bytes, and its slot; see ``_short_key``."""
    if count > 24:
        fourth = _first_bytes(fourth, count - 24) | np.uint64(count) << _COUNT_SHIFT
    else:
        third, fourth = _first_bytes(third, count - 16), np.uint64(count) << _COUNT_SHIFT
    mixed = (first * _MIX_1) ^ (second * _MIX_2) ^ (third * _MIX_3) ^ (fourth * _PAIR_MIX)
    mixed = (mixed ^ (mixed >> _HALF)) * _MIX_3
    return third, fourth, ((mixed >> _HALF) & np.uint64(size // 8 - 1)) * np.uint64(8)


@inlined
def _two_tokens(out: Any, at: Any, stop: Any) -> Any:
    """``out[at:at + 2]`` as a word, 0 from ``stop`` on."""
    low = np.uint64(out[at]) if at < stop else np.uint64(0)
    return low | (np.uint64(out[at + 1]) << _HALF if at + 1 < stop else np.uint64(0))


@compiled
def _new_piece(
    text: Any, begin: Any, count: Any, tables: Any, scratch: Any, out: Any, at: Any
) -> Any:
    """Tokens of a piece into ``out[at:]``, merged and kept if short; returns where they end."""
    byte_tokens, merged, pairs = tables.byte_tokens, tables.merged, tables.pairs
    units = _begin_units(text, begin, count, byte_tokens, tables.whole_characters, scratch[1])
    if units == 0:
        return _merge_heaped(text, begin, count, byte_tokens, merged, pairs, out, at)
    stop = _merge_scanned(units, merged, pairs, scratch, out, at)
    num_tokens = np.uint64(stop - at) << _COUNT_SHIFT
    if count < 16 and stop - at <= 4:
        kept = tables.short_pieces
        first, second = word(text, begin), word(text, begin + 8)
        first, second, slot = _short_key(first, second, count, len(kept))
        # Who comes first stays; it is often frequent. The second place changes hands.
        slot = slot if kept[slot + np.uint64(1)] == 0 else slot + np.uint64(4)
        kept[slot], kept[slot + np.uint64(1)] = first, second
        kept[slot + np.uint64(2)] = _two_tokens(out, at, stop)
        kept[slot + np.uint64(3)] = _two_tokens(out, at + 2, stop) | num_tokens
    elif 16 <= count < 32 and stop - at <= 8:
        kept = tables.long_pieces
        first, second = word(text, begin), word(text, begin + 8)
        third, fourth = word(text, begin + 16), word(text, begin + 24)
        third, fourth, slot = _long_key(first, second, third, fourth, count, len(kept))
        kept[slot], kept[slot + np.uint64(1)] = first, second
        kept[slot + np.uint64(2)], kept[slot + np.uint64(3)] = third, fourth
        for pair in range(4):
            kept[slot + np.uint64(4 + pair)] = _two_tokens(out, at + 2 * pair, stop)
        kept[slot + np.uint64(7)] |= num_tokens
    return stop


@compiled
def encode(text: Any, pieces: Any, count: Any, tables: Any, out: Any, out_ends: Any) -> Any:
    """Encode texts that were cut into pieces; returns the number of tokens.

    Args:
        text: ``uint8[N]``, see ``cut.cut``.
        pieces: ``int64[count + 1]``: where each piece starts.
        count: Number of pieces.
        tables: Of the tokenizer; the pieces in it are added to.
        out: ``uint32[N]``: gets the tokens.
        out_ends: ``int64[texts]``: gets where the tokens of each text end.
    """
    short, long = tables.short_pieces, tables.long_pieces
    scratch = np.empty((4, _SCANNED + 16), np.uint32)
    at, index = 0, 0
    # Handing an array to a function with branches counts references, which takes longer than
    # finding a piece: keys are made of words.
    for piece in range(count):
        begin = pieces[piece]
        length = pieces[piece + 1] - begin
        if length < 16:
            first, second = word(text, begin), word(text, begin + 8)
            first, second, slot = _short_key(first, second, length, len(short))
            if short[slot] != first or short[slot + np.uint64(1)] != second:
                slot += np.uint64(4)
            if short[slot] == first and short[slot + np.uint64(1)] == second:
                low, high = short[slot + np.uint64(2)], short[slot + np.uint64(3)]
                out[at], out[at + 1] = np.uint32(low), np.uint32(low >> _HALF)
                out[at + 2], out[at + 3] = np.uint32(high), np.uint32(high >> _HALF & _TOKEN)
                at += np.int64(high >> _COUNT_SHIFT)
                continue
        elif length < 32:
            first, second = word(text, begin), word(text, begin + 8)
            third, fourth = word(text, begin + 16), word(text, begin + 24)
            third, fourth, slot = _long_key(first, second, third, fourth, length, len(long))
            same = long[slot] == first and long[slot + np.uint64(1)] == second
            same = same and long[slot + np.uint64(2)] == third
            if same and long[slot + np.uint64(3)] == fourth:
                for pair in range(4):
                    two = long[slot + np.uint64(4 + pair)]
                    out[at + 2 * pair] = np.uint32(two)
                    out[at + 2 * pair + 1] = np.uint32(two >> _HALF & _TOKEN)
                at += np.int64(long[slot + np.uint64(7)] >> _COUNT_SHIFT)
                continue
        if text[begin] == SEPARATOR:
            for _ in range(length):
                out_ends[index] = at
                index += 1
        else:
            at = _new_piece(text, begin, length, tables, scratch, out, at)
    return at
