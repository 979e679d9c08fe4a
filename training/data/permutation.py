"""Keyed permutations without tables, and the 64-bit hashes that they are made of."""

from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
KeyArray = NDArray[np.uint64]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""2**64 over the golden ratio: multiples of it are spread evenly over 64 bits."""

_ROUNDS = 6


def permute(index: IntArray, n: int | IntArray, key: int | KeyArray) -> IntArray:
    """Image of ``index`` under the ``key``-th permutation of ``[0, n)``; both broadcast.

    A Feistel network on the smallest even number of bits that holds ``n`` (Luby & Rackoff 1988),
    iterated until the value falls into the range again (cycle walking, Black & Rogaway 2002): a
    bijection without a table.
    """
    values = np.array(index, np.uint64, ndmin=1)
    sizes = np.broadcast_to(np.asarray(n, np.uint64), values.shape)
    keys = np.broadcast_to(np.asarray(key, np.uint64), values.shape)
    # frexp gives the bit length of an integer exactly below 2**53.
    half_bits = np.maximum((np.frexp((sizes - np.uint64(1)).astype(np.float64))[1] + 1) // 2, 1)
    half_bits = half_bits.astype(np.uint64)
    values = _feistel(values, half_bits, keys)
    pending = np.flatnonzero(values >= sizes)
    while pending.size:
        values[pending] = _feistel(values[pending], half_bits[pending], keys[pending])
        pending = pending[values[pending] >= sizes[pending]]
    return values.astype(np.int64).reshape(np.shape(index))


def _feistel(values: KeyArray, half_bits: KeyArray, keys: KeyArray) -> KeyArray:
    """One pass of the network over ``2 * half_bits`` bits."""
    mask = (np.uint64(1) << half_bits) - np.uint64(1)
    left, right = values >> half_bits, values & mask
    round_keys = keys
    for _ in range(_ROUNDS):
        round_keys = round_keys + GOLDEN
        left, right = right, left ^ (mix(right + round_keys) & mask)
    return (left << half_bits) | right


def mix(values: KeyArray) -> KeyArray:
    """Murmur3's 64-bit finaliser: an input bit changes each output bit with probability 1/2."""
    values = values ^ (values >> np.uint64(33))  # ours from here on
    values *= np.uint64(0xFF51AFD7ED558CCD)
    values ^= values >> np.uint64(33)
    values *= np.uint64(0xC4CEB9FE1A85EC53)
    values ^= values >> np.uint64(33)
    return values


def key_of(*words: str) -> int:
    """64-bit key of some words."""
    return int.from_bytes(sha256("\0".join(words).encode()).digest()[:8], "little")
