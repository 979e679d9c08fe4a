"""Which rows of a slice a stream draws from when it does not draw from all of them."""

from functools import lru_cache

import numpy as np

from training.config import Stream
from training.data.permutation import GOLDEN, IntArray, key_of, mix, permute

TABLE_ROWS = 2**16
"""A slice of at most so many rows is kept through a table."""
LEAF_ROWS = 2048
"""In a larger one, rows that are permuted with each other; about an 8 MiB shard of 2,048 tokens."""

_SUBSET = 1


def kept_rows(stream: Stream, positions: IntArray | None = None) -> IntArray:
    """Rows that a stream draws from, ``int64[len(positions)]``.

    A version of the replay buffer with a smaller share keeps a subset of a larger one's rows: they
    are the first so many of a permutation that is keyed by snapshot and domain only. For up to
    ``TABLE_ROWS`` available rows it is a permutation of all of them, and the kept ones are sorted,
    because neighbours then share shards: a table of 8 bytes a kept row. How many of a random set
    lie below a row can only be counted, so that sorting has no form that scales; above, the
    permutation is one inside each of many neighbouring leaves, and a keyed tree says how many each
    leaf keeps: no table, time O(log available) a row, and neighbours still share shards.

    Args:
        stream: Its ``available`` rows, of which ``samples`` are kept.
        positions: Which of the kept rows, 0 to ``samples - 1``; all when not given.
    """
    if positions is None:
        positions = np.arange(stream.samples, dtype=np.int64)
    key = key_of("replay", stream.snapshot, stream.domain) ^ _SUBSET
    if stream.available <= TABLE_ROWS:
        return _table(stream.samples, stream.available, key)[positions]
    return _in_leaves(positions, stream.samples, stream.available, key)


@lru_cache(maxsize=64)
def _table(samples: int, available: int, key: int) -> IntArray:
    table = np.sort(permute(np.arange(samples, dtype=np.int64), available, key))
    table.setflags(write=False)
    return table


def _in_leaves(positions: IntArray, samples: int, available: int, key: int) -> IntArray:
    """Halve rows and kept rows again and again, then permute inside the leaf.

    An odd row, kept or not, goes to the half that a coin of the node names. So both halves keep at
    least as many when the node keeps one more, never more than they have, and in all exactly
    ``samples``: the leaves of a smaller share keep fewer of their first rows.
    """
    keys = np.full(positions.shape, key, np.uint64)
    node = np.ones(positions.shape, np.uint64)
    start = np.zeros(positions.shape, np.int64)
    size, kept = np.full_like(start, available), np.full_like(start, samples)
    position = positions
    num_levels = (-(-available // LEAF_ROWS) - 1).bit_length()
    for _ in range(num_levels):
        coin = (mix(keys + node * GOLDEN) & np.uint64(1)).astype(np.int64)
        left_size, left_kept = (size >> 1) + (size & coin), (kept >> 1) + (kept & coin)
        is_right = position >= left_kept
        position = position - left_kept * is_right
        start = start + left_size * is_right
        size = np.where(is_right, size - left_size, left_size)
        kept = np.where(is_right, kept - left_kept, left_kept)
        node = (node << np.uint64(1)) + is_right.astype(np.uint64)
    return start + permute(position, size, mix(keys ^ mix(node)))
