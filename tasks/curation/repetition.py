"""How much of a text repeats itself, compiled: lines, paragraphs and n-grams of words.

The counts behind Gopher's rules on repetition (Rae et al. 2021, arXiv:2112.11446, table A1). An
n-gram that occurs twice begins with an (n-1)-gram that does, so every length looks only at what the
length before has found to be repeated.
"""

import numpy as np
from numpy.typing import NDArray

from infra.compiled import compiled, compiled_inner, inlined
from tasks.curation.characters import SPACE
from tasks.curation.word_rules import Places, Text

Hashes = NDArray[np.uint64]

SHORTEST, LONGEST = 2, 10
"""n-grams that are counted."""
LONGEST_TOP = 4
"""Up to it the most frequent n-gram is counted, from there on all that came before."""
_FACTOR = np.uint64(0x9FB21C651E98DF25)
_SHIFT, _REST = np.uint64(29), np.uint64(35)
_HALF = np.uint64(32)


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


@inlined
def _part_hash(text: Text, start: int, end: int) -> np.uint64:
    """64 well-mixed bits of a long ``text[start:end]``; never 0. Four characters at a time."""
    one, two = np.uint64(end - start), _FACTOR
    place = start
    while place + 3 < end:
        one ^= np.uint64(text[place]) | np.uint64(text[place + 1]) << _HALF
        two ^= np.uint64(text[place + 2]) | np.uint64(text[place + 3]) << _HALF
        one, two = one * _FACTOR, two * _FACTOR
        one, two = one ^ one >> _HALF, two ^ two >> _HALF
        place += 4
    while place < end:
        one = (one ^ np.uint64(text[place])) * _FACTOR
        one ^= one >> _HALF
        place += 1
    one = (one ^ (two << _SHIFT | two >> _REST)) * _FACTOR
    return (one ^ one >> _HALF) | np.uint64(1)


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
        key = _part_hash(text, starts[index], ends[index])
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
        sums[word + 1] = sums[word] * _FACTOR + _part_hash(text, starts[word], ends[word])
        lengths[word + 1] = lengths[word] + ends[word] - starts[word]
    firsts = np.empty(count, np.int32)
    owners = np.empty(slots_for(count), np.int32)
    counts = np.empty(count, np.int32)
    # Where the repeated n-grams of the length before begin; at first, all words.
    repeated = np.arange(count).astype(np.int32)
    num_repeated = count
    power = _FACTOR
    for n in range(SHORTEST, LONGEST + 1):
        power *= _FACTOR
        found[n] = 0
        if count < n:
            continue
        best = 0
        if num_repeated:
            num_repeated, best = _find_repeated(
                sums, power, n, count, keys, owners, firsts, counts, repeated, num_repeated
            )
        times = counts[best] if num_repeated else 1
        if n <= LONGEST_TOP:
            found[n] = times * (lengths[best + n] - lengths[best] + n - 1)
        elif num_repeated:
            found[n] = _characters_seen_before(lengths, n, firsts, counts, repeated, num_repeated)


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
    repeated: Places,
    num_repeated: int,
) -> tuple[int, int]:
    """Which n-grams occur more than once, given which (n-1)-grams do.

    Updates ``repeated``, places in order; ``firsts`` gets the first place of the same n-gram and
    ``counts`` how often it occurs. Returns how many places there are, and that of the most frequent
    n-gram, 0 if there are none.
    """
    candidates = 0
    for index in range(num_repeated - 1):
        place = repeated[index]
        if repeated[index + 1] == place + 1 and place + n <= count:
            repeated[candidates] = place
            candidates += 1
    mask = slots_for(candidates) - 1
    keys[: mask + 1] = np.uint64(0)
    best = best_count = 0
    for index in range(candidates):
        place = repeated[index]
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
    kept = 0
    for index in range(candidates):
        place = repeated[index]
        if counts[firsts[place]] > 1:
            repeated[kept] = place
            kept += 1
    return kept, best


@compiled_inner
def _characters_seen_before(
    lengths: NDArray[np.int64],
    n: int,
    firsts: Places,
    counts: Places,
    repeated: Places,
    num_repeated: int,
) -> int:
    """Characters of the n-grams that a reader who skips them afterwards has met before.

    Uses up ``counts``, of which it marks what was met.
    """
    characters = following = 0
    for index in range(num_repeated):
        place = repeated[index]
        if place < following:
            continue
        first = firsts[place]
        if counts[first] < 0:
            characters += int(lengths[place + n] - lengths[place])
            following = place + n
        else:
            counts[first] = -1
    return characters
