"""Which sample is trained on when: (step, slot) -> (stream, row), pure in mixture and seed.

Nothing here has state, so the position of a run is its step, and any number of workers, restarts or
loader threads sees the same samples in every step. Two questions are answered separately:

* *Which stream* does a slot belong to? A periodic sequence in which, after every slot, each
  stream's cumulative count is within one sample of its exact share.
* *Which row* is the j-th sample of a stream? A keyed permutation, another one in every epoch, that
  keeps neighbours in time near each other on disk, so that a batch touches few shards.
"""

import heapq
import math
from functools import lru_cache
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from training.config import Mixture, Stream

IntArray = NDArray[np.int64]
KeyArray = NDArray[np.uint64]

MAX_TOTAL_PARTS = 2**16
CHUNK_ROWS = 2048
"""Rows that stay together when chunks are permuted; about the rows of an 8 MiB shard at 2,048
tokens."""
WINDOW_CHUNKS = 8
"""Chunks whose rows are shuffled into each other."""

_ROUNDS = 6
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_SUBSET, _CHUNKS, _ROWS, _ROTATION = (np.uint64(purpose) for purpose in (1, 2, 3, 4))


class Order:
    """The order of all samples of one update.

    Args:
        mixture: Streams with integer parts; at most 65,536 parts in all.
        global_batch_samples: Samples of one step.
    """

    def __init__(self, mixture: Mixture, global_batch_samples: int) -> None:
        for stream in mixture.streams:
            _check(stream)
        if not 1 <= mixture.total_parts <= MAX_TOTAL_PARTS:
            raise ValueError(
                f"a mixture must have 1 to {MAX_TOTAL_PARTS} parts in all, "
                f"got {mixture.total_parts}; round the shares to fewer parts"
            )
        self.global_batch_samples = global_batch_samples
        parts = [stream.parts for stream in mixture.streams]
        common = math.gcd(*parts)
        self._parts = np.array(parts, np.int64) // common
        self._sequence, self._ranks = _sequence_of(tuple(self._parts.tolist()))
        self._samples = np.array([stream.samples for stream in mixture.streams], np.int64)
        self._keys = np.array(
            [_key_of("order", str(mixture.seed), stream.name) for stream in mixture.streams],
            np.uint64,
        )
        self._streams = mixture.streams
        self._subsets: dict[int, IntArray] = {}

    def step(self, step: int) -> tuple[IntArray, IntArray]:
        """Streams and rows of the global batch of ``step`` (0-based), ``int64[batch]`` each.

        A row counts within the stream's training samples on disk, 0 to ``available - 1``.
        """
        first = step * self.global_batch_samples
        slots = np.arange(first, first + self.global_batch_samples, dtype=np.int64)
        periods, positions = np.divmod(slots, len(self._sequence))
        streams = self._sequence[positions]
        draws = periods * self._parts[streams] + self._ranks[positions]
        return streams, self._rows(streams, draws)

    def counts_before(self, step: int) -> IntArray:
        """Samples that each stream has given before ``step``, ``int64[num_streams]``."""
        periods, position = divmod(step * self.global_batch_samples, len(self._sequence))
        begun = np.bincount(self._sequence[:position], minlength=len(self._parts))
        return periods * self._parts + begun

    def _rows(self, streams: IntArray, draws: IntArray) -> IntArray:
        """Row of the ``draws``-th sample (0-based) of each of ``streams``."""
        epochs, positions = np.divmod(draws, self._samples[streams])
        keys = _mix(self._keys[streams] + _mix(epochs.astype(np.uint64) + _GOLDEN))
        rows = _shuffle(positions, self._samples[streams], keys)
        for index in np.unique(streams).tolist():
            stream = self._streams[index]
            if stream.samples < stream.available:
                if index not in self._subsets:
                    self._subsets[index] = kept_rows(stream)
                mine = streams == index
                rows[mine] = self._subsets[index][rows[mine]]
        return rows


def kept_rows(stream: Stream) -> IntArray:
    """Rows that a stream draws from, ascending, ``int64[samples]``.

    They are the first ``samples`` of a permutation of ``available`` that is keyed by snapshot and
    domain only, so that a version of the replay buffer with a smaller share keeps a subset.
    Ascending, because neighbours then share shards; costs 8 bytes a sample.
    """
    first = np.arange(stream.samples, dtype=np.int64)
    key = _key_of("replay", stream.snapshot, stream.domain)
    return np.sort(permute(first, stream.available, key ^ int(_SUBSET)))


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
    pending = np.arange(values.size)
    while pending.size:
        values[pending] = _feistel(values[pending], half_bits[pending], keys[pending])
        pending = pending[values[pending] >= sizes[pending]]
    return values.astype(np.int64).reshape(np.shape(index))


def _shuffle(positions: IntArray, sizes: IntArray, keys: KeyArray) -> IntArray:
    """Row at each position of an epoch of ``sizes`` rows.

    Chunks are permuted, and rows inside a window of chunks.
    """
    window_rows = CHUNK_ROWS * WINDOW_CHUNKS
    window = positions // window_rows
    start = window * window_rows
    window_keys = _mix(keys ^ _mix(window.astype(np.uint64) + _ROWS))
    rows = start + permute(positions - start, np.minimum(sizes - start, window_rows), window_keys)
    chunk, offset = np.divmod(rows, CHUNK_ROWS)
    whole_chunks = sizes // CHUNK_ROWS
    whole = chunk < whole_chunks
    chunk[whole] = permute(chunk[whole], whole_chunks[whole], _mix(keys[whole] ^ _CHUNKS))
    # The rows after the last whole chunk keep their place; turning the ring makes them others in
    # every epoch.
    rotation = (_mix(keys ^ _ROTATION) % sizes.astype(np.uint64)).astype(np.int64)
    return (chunk * CHUNK_ROWS + offset + rotation) % sizes


def _feistel(values: KeyArray, half_bits: KeyArray, keys: KeyArray) -> KeyArray:
    """One pass of the network over ``2 * half_bits`` bits."""
    mask = (np.uint64(1) << half_bits) - np.uint64(1)
    left, right = values >> half_bits, values & mask
    round_keys = keys
    for _ in range(_ROUNDS):
        round_keys = round_keys + _GOLDEN
        left, right = right, left ^ (_mix(right + round_keys) & mask)
    return (left << half_bits) | right


def _mix(values: KeyArray) -> KeyArray:
    """Murmur3's 64-bit finaliser: an input bit changes each output bit with probability 1/2."""
    values = values ^ (values >> np.uint64(33))
    values = values * np.uint64(0xFF51AFD7ED558CCD)
    values = values ^ (values >> np.uint64(33))
    values = values * np.uint64(0xC4CEB9FE1A85EC53)
    return values ^ (values >> np.uint64(33))


def _key_of(*words: str) -> int:
    """64-bit key of some words."""
    return int.from_bytes(sha256("\0".join(words).encode()).digest()[:8], "little")


@lru_cache(maxsize=64)
def _sequence_of(parts: tuple[int, ...]) -> tuple[IntArray, IntArray]:
    """Stream of every slot of one period, and its rank among the stream's slots of the period.

    Just-in-time sequencing (Steiner & Yeomans 1993): to stay within one sample of its share, the
    j-th sample of a stream (from 1) may come from slot floor((j - 1) D / parts) + 1 on and must
    have come by slot ceil(j D / parts). Earliest deadline first finds such a sequence whenever
    there is one, and there always is.
    """
    total = sum(parts)
    streams = np.repeat(np.arange(len(parts)), parts)
    shares = np.repeat(parts, parts)
    ranks = np.concatenate([np.arange(count) for count in parts])
    releases = ranks * total // shares
    # One integer a job sorts by deadline, then stream; each stream has at most one open job a
    # deadline.
    jobs = -(-(ranks + 1) * total // shares) * len(parts) + streams
    by_release = np.argsort(releases, kind="stable")
    first_job = np.searchsorted(releases[by_release], np.arange(total + 1)).tolist()
    arriving = jobs[by_release].tolist()
    open_jobs: list[int] = []
    taken: list[int] = []
    for slot in range(total):
        for job in arriving[first_job[slot] : first_job[slot + 1]]:
            heapq.heappush(open_jobs, job)
        taken.append(heapq.heappop(open_jobs))
    sequence = np.array(taken, np.int64) % len(parts)
    by_stream = np.argsort(sequence, kind="stable")
    rank_of_slot = np.empty(total, np.int64)
    rank_of_slot[by_stream] = ranks
    return sequence, rank_of_slot


def _check(stream: Stream) -> None:
    """Refuse a stream that nothing can be drawn from."""
    if stream.parts < 1:
        raise ValueError(f"stream {stream.name} must have at least 1 part, got {stream.parts}")
    if not 1 <= stream.samples <= stream.available:
        raise ValueError(
            f"stream {stream.name} must draw from 1 to {stream.available} available samples, "
            f"got {stream.samples}"
        )
