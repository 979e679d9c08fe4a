"""The search for n-grams of items in texts, compiled: runs of words, by their numbers.

Every n-gram has a hash, a polynomial of the numbers of its words modulo 2^64. Of a text each word
gets its number, 0 when no item has it (``item_words``); where enough words in a row have one, the
hash of the first few tells in nearly all places that no n-gram of an item begins there.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from infra.compiled import compiled, compiled_inner
from tasks.evaluations.escapes import other_readings
from tasks.evaluations.item_grams import BASE
from tasks.evaluations.item_words import (
    Hashes,
    Lexicon,
    Numbers,
    encoded,
    mixed,
    number_text,
    table_size,
)

_SIEVE_BITS_A_HEAD = 16


class Grams(NamedTuple):
    """The n-grams that are looked for, as arrays for compiled code."""

    lengths: Numbers
    """Words of an n-gram that there are, increasing."""
    powers: Hashes
    """``BASE`` to the power of each of them."""
    head: int
    """Words that ``sieve`` goes by, no more than any n-gram has."""
    head_power: np.uint64
    sieve: NDArray[np.uint8]
    """Bits: whether an n-gram may begin with words of this hash."""
    slots: NDArray[np.int32]
    """Open addressing: places in ``hashes``, -1 is an empty slot."""
    ns: Numbers
    """Of each n-gram its words,"""
    hashes: Hashes
    """and its hash; sorted by both."""


def grams_of(ns: Numbers, hashes: Hashes, head: int, heads: Hashes) -> Grams:
    """Arrays of n-grams.

    Args:
        ns: Words of each, at least ``head``.
        hashes: Of each; sorted by both, and all different.
        head: Words that the search begins with.
        heads: Hashes of the first ``head`` words of every n-gram; more of them do no harm.
    """
    lengths = np.unique(ns)
    powers = np.array([pow(int(BASE), int(n), 1 << 64) for n in lengths], np.uint64)
    sieve = np.zeros(table_size(_SIEVE_BITS_A_HEAD * len(heads)) // 8, np.uint8)
    slots = np.full(table_size(2 * len(hashes)), -1, np.int32)
    head_power = np.uint64(pow(int(BASE), head, 1 << 64))
    grams = Grams(lengths, powers, head, head_power, sieve, slots, ns, hashes)
    _place_grams(heads, grams)
    return grams


@compiled
def hash_runs(numbers: Hashes, ends: Numbers, ns: Numbers, head: int) -> tuple[Hashes, Hashes]:
    """Hashes of every run of words of some items, in their order.

    Args:
        numbers: Of the words of all items, one item after the other.
        ends: ``int64[items]``: where the words of each end.
        ns: ``int64[items]``: how many words a run of each has, at least ``head``.
        head: Words.

    Returns:
        Of each run its hash, and that of its first ``head`` words.
    """
    room = len(numbers)
    hashes, heads = np.empty(room, np.uint64), np.empty(room, np.uint64)
    count, start = 0, 0
    for item in range(len(ends)):
        for first in range(start, ends[item] - ns[item] + 1):
            hashed = np.uint64(0)
            for place in range(first, first + ns[item]):
                if place == first + head:
                    heads[count] = hashed
                hashed = hashed * BASE + numbers[place]
            if ns[item] == head:
                heads[count] = hashed
            hashes[count] = hashed
            count += 1
        start = ends[item]
    return hashes[:count], heads[:count]


def find_grams(texts: Sequence[str], lexicon: Lexicon, grams: Grams) -> list[NDArray[np.int64]]:
    """The n-grams of each text, each once, read with and without escapes.

    Returns:
        Of each text the places of n-grams in ``grams``, in increasing order.
    """
    searched = [encoded(text, "utf-8") for text in texts]
    read = [
        (number, encoded(reading, "utf-8"))
        for number, text in enumerate(searched)
        # Bytes are searched several times as fast as characters.
        if b"\\" in text or b"&" in text
        for reading in other_readings(texts[number])
    ]
    searched += [reading for _, reading in read]
    ends = np.cumsum([len(text) for text in searched], dtype=np.int64)
    hits, hit_ends = _find(np.frombuffer(b"".join(searched), np.uint8), ends, lexicon, grams)
    found = np.split(hits, hit_ends)
    for (number, _), others in zip(read, found[len(texts) : -1], strict=True):
        if len(others):
            found[number] = np.union1d(found[number], others)
    return found[: len(texts)]


@compiled
def _place_grams(heads: Hashes, grams: Grams) -> None:
    sieve, slots = grams.sieve, grams.slots
    bits = np.uint64(8 * len(sieve) - 1)
    for head in heads:
        bit = mixed(head) & bits
        sieve[bit >> np.uint64(3)] |= np.uint8(1 << (bit & np.uint64(7)))
    mask = np.uint64(len(slots) - 1)
    for gram in range(len(grams.hashes)):
        slot = mixed(grams.hashes[gram] + np.uint64(grams.ns[gram])) & mask
        while slots[slot] >= 0:
            slot = (slot + np.uint64(1)) & mask
        slots[slot] = gram


@compiled_inner
def _gram_of(n: int, hashed: np.uint64, grams: Grams) -> int:
    """The place of an n-gram, -1 when no item has it."""
    slots = grams.slots
    mask = np.uint64(len(slots) - 1)
    slot = mixed(hashed + np.uint64(n)) & mask
    while slots[slot] >= 0:
        gram = slots[slot]
        if grams.hashes[gram] == hashed and grams.ns[gram] == n:
            return gram
        slot = (slot + np.uint64(1)) & mask
    return -1


@compiled_inner
def _search_run(
    prefixes: Hashes, first: int, after: int, grams: Grams, seen: NDArray[np.bool_], found: Numbers
) -> int:
    """Write the n-grams that stand in words ``first`` to ``after`` and were not seen."""
    count = 0
    sieve = grams.sieve
    bits = np.uint64(8 * len(sieve) - 1)
    for start in range(first, after - grams.head + 1):
        head = prefixes[start + grams.head] - prefixes[start] * grams.head_power
        bit = mixed(head) & bits
        if not (sieve[bit >> np.uint64(3)] >> (bit & np.uint64(7))) & 1:
            continue
        for index in range(len(grams.lengths)):
            n = grams.lengths[index]
            if start + n > after:
                break
            gram = _gram_of(n, prefixes[start + n] - prefixes[start] * grams.powers[index], grams)
            if gram >= 0 and not seen[gram]:
                seen[gram] = True
                found[count] = gram
                count += 1
    return count


@compiled
def _find(
    data: NDArray[np.uint8], ends: Numbers, lexicon: Lexicon, grams: Grams
) -> tuple[Numbers, Numbers]:
    longest, start = 0, 0
    for end in ends:
        longest, start = max(longest, end - start), end
    # A word of one ASCII letter and what parts it from the next are the shortest.
    most = (longest + 1) // 2
    numbers = np.empty(most + 1, np.uint64)
    prefixes = np.zeros(most + 2, np.uint64)
    word = np.empty(lexicon.longest + 1, np.uint32)
    seen = np.zeros(len(grams.hashes), np.bool_)
    # Each n-gram once a text; so much room is enough for one text.
    found = np.empty(len(grams.hashes), np.int64)
    hits = np.empty(64, np.int64)
    hit_ends = np.empty(len(ends), np.int64)
    total, start = 0, 0
    for text in range(len(ends)):
        words = number_text(data, start, ends[text], lexicon, word, numbers)
        numbers[words] = 0
        count = first = 0
        for place in range(words + 1):
            number = numbers[place]
            prefixes[place + 1] = prefixes[place] * BASE + number
            if number == 0:
                if place - first >= grams.head:
                    count += _search_run(prefixes, first, place, grams, seen, found[count:])
                first = place + 1
        while total + count > len(hits):
            hits = np.concatenate((hits, np.empty_like(hits)))
        found[:count].sort()
        for index in range(count):
            hits[total + index] = found[index]
            seen[found[index]] = False
        total += count
        hit_ends[text] = total
        start = ends[text]
    return hits[:total], hit_ends
