"""From pieces of UTF-8 to token ids, compiled: each piece is looked up, what is new is merged.

Pieces that were merged before are found again by their bytes, compared in full. Where they may be
kept is fetched for several pieces at once: one by one, most of the time would go to waiting for it.
"""

from typing import Any, NamedTuple

import numpy as np

from infra.compiled import compiled, fetch_ahead, inlined
from training.fast_bpe.cut import SEPARATOR, word
from training.fast_bpe.merge import SCANNED, begin_units, merge_heaped, merge_scanned


class Tables(NamedTuple):
    """What a tokenizer is for the kernel; all but the last two are only read."""

    byte_tokens: np.ndarray
    """``uint32[256]``: token of each byte."""
    whole_characters: np.ndarray
    """``uint64[0x110000]``: token of each character that may be begun with, or 0.

    Above the token two bytes from ``merge.AFTER`` on and two from ``merge.BEFORE`` on: not where
    one of these comes before the character, or after it.
    """
    merged: np.ndarray
    """``uint32[merges]``: token that the merge of this rank makes."""
    pairs: np.ndarray
    """``uint64[2^k]``: see ``merge.fill_pairs``."""
    neighbours: np.ndarray
    """``uint64[2^k]``: see ``seams.neighbours_of``."""
    short_pieces: np.ndarray
    """``uint64[4 * 2^k]``: pieces of at most 15 bytes and 4 tokens: 2 words of key, 2 of tokens."""
    long_pieces: np.ndarray
    """``uint64[8 * 2^k]``: pieces of at most 31 bytes and 8 tokens: 4 words of key, 4 of tokens."""


_MIX_1, _MIX_2 = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)
_MIX_3, _MIX_4 = np.uint64(0x9FB21C651E98DF25), np.uint64(0x9E3779B97F4A7C15)
_HALF, _COUNT_SHIFT, _TOKEN = np.uint64(32), np.uint64(56), np.uint64(0xFFFFFF)
_AHEAD = 16
"""For so many pieces the tables are fetched into the caches before the first is looked up."""


@inlined
def _first_bytes(word: Any, count: Any) -> Any:
    """``word`` with all but its first ``count`` bytes (0 to 8) cleared."""
    if count >= 8:
        return word
    return word & ((np.uint64(1) << np.uint64(8 * count)) - np.uint64(1))


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
    mixed = (first * _MIX_1) ^ (second * _MIX_2) ^ (third * _MIX_3) ^ (fourth * _MIX_4)
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
    units = begin_units(text, begin, count, byte_tokens, tables.whole_characters, scratch[1])
    if units == 0:
        return merge_heaped(text, begin, count, byte_tokens, merged, pairs, out, at)
    stop = merge_scanned(units, merged, pairs, scratch, out, at)
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


@inlined
def _fetch_ahead(text: Any, pieces: Any, first: Any, stop: Any, short: Any, long: Any) -> None:
    """Have the processor fetch where these pieces are kept, all at once instead of in turns."""
    for piece in range(first, stop):
        begin = pieces[piece]
        length = pieces[piece + 1] - begin
        if length < 32:
            one, two = word(text, begin), word(text, begin + 8)
            if length < 16:
                _, _, slot = _short_key(one, two, length, len(short))
                fetch_ahead(short, slot)
            else:
                three, four = word(text, begin + 16), word(text, begin + 24)
                _, _, slot = _long_key(one, two, three, four, length, len(long))
                fetch_ahead(long, slot)


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
    scratch = np.empty((4, SCANNED + 16), np.uint32)
    at, index = 0, 0
    # Handing an array to a function with branches counts references, which takes longer than
    # finding a piece: keys are made of words.
    for piece in range(count):
        if piece % _AHEAD == 0:
            _fetch_ahead(text, pieces, piece, min(piece + _AHEAD, count), short, long)
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
