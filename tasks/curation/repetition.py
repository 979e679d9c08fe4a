"""How much of a text repeats itself, compiled: lines, paragraphs and n-grams of words.

The counts behind Gopher's rules on repetition (Rae et al. 2021, arXiv:2112.11446, table A1). An
n-gram that occurs twice begins with an (n-1)-gram that does, so every length looks only at what the
length before has found to be repeated.
"""

import numpy as np
from numpy.typing import NDArray

from infra.compiled import compiled, compiled_inner
from tasks.curation.characters import SPACE
from tasks.curation.word_rules import Places, Text, span_hash

Hashes = NDArray[np.uint64]

SHORTEST, LONGEST = 2, 10
"""n-grams that are counted."""
LONGEST_TOP = 4
"""Up to it the most frequent n-gram is counted, from there on all that came before."""
_FACTOR = np.uint64(0x9FB21C651E98DF25)
_SHIFT = np.uint64(29)


@compiled_inner
def split_at_newlines(
    text: Text, start: int, end: int, fewest: int, starts: Places, ends: Places
) -> int:
    """Parts of ``text[start:end]`` between runs of at least ``fewest`` newlines; their number.

    A run at an end of the text leaves an empty part there.
    """
    count = 0
    first = place = start
    while place < end:
        if text[place] != ord("\n"):
            place += 1
            continue
        run = place
        while place < end and text[place] == ord("\n"):
            place += 1
        if place - run >= fewest:
            starts[count], ends[count] = first, run
            count += 1
            first = place
    starts[count], ends[count] = first, end
    return count + 1


@compiled_inner
def stripped(text: Text, start: int, end: int, classes: NDArray[np.uint16]) -> tuple[int, int]:
    """The part of ``text[start:end]`` without white space around it."""
    while start < end and classes[text[start]] & SPACE:
        start += 1
    while end > start and classes[text[end - 1]] & SPACE:
        end -= 1
    return start, end


@compiled_inner
def slots_for(count: int) -> int:
    """Size of a hash table for ``count`` keys: a power of two, at most half full."""
    slots = 16
    while slots < 2 * count:
        slots *= 2
    return slots


@compiled_inner
def count_duplicates(
    text: Text, starts: Places, ends: Places, count: int, keys: Hashes
) -> tuple[int, int]:
    """How many of the parts equal one before them, and their characters.

    ``keys`` has ``slots_for(count)`` entries at least, whatever they hold.
    """
    mask = slots_for(count) - 1
    keys[: mask + 1] = np.uint64(0)
    duplicates = characters = 0
    for index in range(count):
        key = span_hash(text, starts[index], ends[index])
        slot = np.int64(key >> np.uint64(20)) & mask
        while keys[slot] != np.uint64(0) and keys[slot] != key:
            slot = (slot + 1) & mask
        if keys[slot] == key:
            duplicates += 1
            characters += ends[index] - starts[index]
        keys[slot] = key
    return duplicates, characters


@compiled
def count_ngrams(
    text: Text, starts: Places, ends: Places, count: int, keys: Hashes, found: NDArray[np.int64]
) -> None:
    """Characters in repeated n-grams of words, into ``found``, ``int64[LONGEST + 1]`` by n.

    For n up to 4 the most frequent n-gram's length, joined by spaces, times how often it occurs (of
    equally frequent ones the first); beyond, the words of n-grams that occurred before, counted
    once where they overlap.
    """
    sums = np.empty(count + 1, np.uint64)
    lengths = np.empty(count + 1, np.int64)
    sums[0], lengths[0] = np.uint64(0), 0
    for word in range(count):
        sums[word + 1] = sums[word] * _FACTOR + span_hash(text, starts[word], ends[word])
        lengths[word + 1] = lengths[word] + ends[word] - starts[word]
    firsts = np.empty(count, np.int32)
    owners = np.empty(slots_for(count), np.int32)
    counts = np.empty(count, np.int32)
    repeated = np.ones(count + 1, np.bool_)
    power = _FACTOR
    has_repeated = True
    for n in range(SHORTEST, LONGEST + 1):
        power *= _FACTOR
        found[n] = 0
        if count < n:
            continue
        best = 0
        if has_repeated:
            has_repeated, best = _find_repeated(
                sums, power, n, count, keys, owners, firsts, counts, repeated
            )
        times = counts[best] if has_repeated else 1
        if n <= LONGEST_TOP:
            best = best if has_repeated else 0
            found[n] = times * (lengths[best + n] - lengths[best] + n - 1)
        elif has_repeated:
            found[n] = _characters_seen_before(lengths, n, count, firsts, counts, repeated)


@compiled_inner
def _find_repeated(
    sums: Hashes,
    power: np.uint64,
    n: int,
    count: int,
    keys: Hashes,
    owners: Places,
    firsts: Places,
    counts: Places,
    repeated: NDArray[np.bool_],
) -> tuple[bool, int]:
    """Which n-grams occur more than once, given which (n-1)-grams do.

    Updates ``repeated``; ``firsts`` gets the first place of the same n-gram and ``counts`` how
    often it occurs. Returns whether there are any, and the place of the most frequent one.
    """
    candidates = 0
    for place in range(count - n + 1):
        repeated[place] = repeated[place] and repeated[place + 1]
        candidates += repeated[place]
    repeated[count - n + 1 :] = False
    mask = slots_for(candidates) - 1
    keys[: mask + 1] = np.uint64(0)
    best = best_count = 0
    for place in range(count - n + 1):
        if not repeated[place]:
            continue
        key = sums[place + n] - sums[place] * power
        key = ((key ^ (key >> _SHIFT)) * _FACTOR) | np.uint64(1)
        slot = np.int64(key >> np.uint64(24)) & mask
        while keys[slot] != np.uint64(0) and keys[slot] != key:
            slot = (slot + 1) & mask
        if keys[slot] == np.uint64(0):
            keys[slot], owners[slot] = key, place
            firsts[place], counts[place] = place, 1
            continue
        first = owners[slot]
        firsts[place] = first
        counts[first] += 1
        is_earlier = counts[first] == best_count and first < best
        if counts[first] > best_count or is_earlier:
            best, best_count = first, counts[first]
    if best_count == 0:
        repeated[:] = False
        return False, 0
    for place in range(count - n + 1):
        repeated[place] = repeated[place] and counts[firsts[place]] > 1
    return True, best


@compiled_inner
def _characters_seen_before(
    lengths: NDArray[np.int64],
    n: int,
    count: int,
    firsts: Places,
    counts: Places,
    repeated: NDArray[np.bool_],
) -> int:
    """Characters of the n-grams that a reader who skips them afterwards has met before.

    Uses up ``counts``, of which it marks what was met.
    """
    characters = place = 0
    while place < count - n + 1:
        first = firsts[place]
        if not repeated[place]:
            place += 1
        elif counts[first] < 0:
            characters += lengths[place + n] - lengths[place]
            place += n
        else:
            counts[first] = -1
            place += 1
    return characters
