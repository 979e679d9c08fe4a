"""Finding signatures in a sorted segment, compiled."""

from typing import Any

import numpy as np

from infra.compiled import compiled


@compiled
def _first_at_least(keys: Any, count: Any, key: Any) -> Any:
    """Where ``key`` is or would be in the first ``count`` of the sorted ``keys``.

    Keys are hashes, so their place can be guessed to within about the root of their number, and a
    search that doubles its reach from there touches fewer pages than one that halves the array.
    """
    guess = np.int64((np.uint64(key) * np.uint64(count)) >> np.uint64(32))
    reach = np.int64(8)
    if keys[guess] < key:
        low, high = guess, guess + reach
        while high < count and keys[high] < key:
            low, reach = high, reach * 2
            high = low + reach
        low, high = low + 1, min(high, count)
    else:
        high, low = guess, guess - reach
        while low >= 0 and keys[low] >= key:
            high, reach = low, reach * 2
            low = high - reach
        low = max(low + 1, 0)
    while low < high:
        middle = (low + high) // 2
        if keys[middle] < key:
            low = middle + 1
        else:
            high = middle
    return low


@compiled
def _num_equal(one: Any, other: Any) -> Any:
    count = 0
    for index in range(len(one)):
        count += one[index] == other[index]
    return count


@compiled
def search(
    bands: Any, segment_prints: Any, keys: Any, prints: Any, minimum: Any, found: Any
) -> Any:
    """Set ``found[i]`` where a document of the segment shares a band and enough of the print.

    Args:
        bands: ``uint32[bands, 2, at least documents]``, sorted keys and their documents.
        segment_prints: ``uint8[documents, permutations]``.
        keys: ``uint32[signatures, bands]``.
        prints: ``uint8[signatures, permutations]``.
        minimum: Equal bytes of two prints that are near-duplicates.
        found: ``bool[signatures]``.
    """
    count = len(segment_prints)
    for band in range(len(bands)):
        band_keys, ordinals = bands[band, 0], bands[band, 1]
        for index in range(len(keys)):
            if found[index]:
                continue
            key = keys[index, band]
            place = _first_at_least(band_keys, count, key)
            while place < count and band_keys[place] == key:
                if _num_equal(prints[index], segment_prints[ordinals[place]]) >= minimum:
                    found[index] = True
                    break
                place += 1
