"""Which sample is trained on when: (step, slot) -> (stream, row), pure in mixture and seed.

Nothing here has state, so the position of a run is its step, and any number of workers, restarts or
loader threads sees the same samples in every step. Two questions are answered separately:

* *Which stream* does a slot belong to? A periodic sequence in which, after every slot, each
  stream's cumulative count is within one sample of its exact share.
* *Which row* is the j-th sample of a stream? A keyed permutation, another one in every epoch, that
  keeps neighbours in time near each other on disk, so that a batch touches few shards.
"""

import math
from bisect import bisect_left
from functools import lru_cache

import numpy as np

from training.config import Mixture, Stream
from training.data.kept_rows import kept_rows
from training.data.permutation import GOLDEN, IntArray, KeyArray, key_of, mix, permute

MAX_TOTAL_PARTS = 2**16
CHUNK_ROWS = 2048
"""Rows that stay together when chunks are permuted; about the rows of an 8 MiB shard at 2,048
tokens."""
WINDOW_CHUNKS = 8
"""Chunks whose rows are shuffled into each other."""

_SPAN_SLOTS = 4096
"""Slots that are computed together: numpy's price of a call is then paid once for many steps."""
_CHUNKS, _ROWS, _ROTATION = (np.uint64(purpose) for purpose in (2, 3, 4))


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
        self._first_slot = mixture.first_slot
        self._drawn_before = np.array([stream.drawn_before for stream in mixture.streams], np.int64)
        self._keys = np.array(
            [key_of("order", str(mixture.seed), stream.name) for stream in mixture.streams],
            np.uint64,
        )
        self._streams = mixture.streams
        self._span_steps = max(1, _SPAN_SLOTS // global_batch_samples)
        self._span: tuple[int, IntArray, IntArray] = (-1, self._samples, self._samples)

    def step(self, step: int) -> tuple[IntArray, IntArray]:
        """Streams and rows of the global batch of ``step`` (0-based), ``int64[batch]`` each.

        A row counts within the stream's training samples on disk, 0 to ``available - 1``. Neither
        array can be written to. Safe to call from several threads.
        """
        number, within = divmod(step, self._span_steps)
        # Taken once and replaced whole: another thread may be at another span.
        span = self._span
        if span[0] != number:
            span = self._span = (number, *self._compute(number))
        _, streams, rows = span
        mine = slice(within * self.global_batch_samples, (within + 1) * self.global_batch_samples)
        return streams[mine], rows[mine]

    def counts_before(self, step: int) -> IntArray:
        """Samples that each stream has given before ``step``, ``int64[num_streams]``.

        Of an update that was taken over under another mixture: since then.
        """
        slots = max(0, step * self.global_batch_samples - self._first_slot)
        periods, position = divmod(slots, len(self._sequence))
        begun = np.bincount(self._sequence[:position], minlength=len(self._parts))
        return periods * self._parts + begun

    def _compute(self, span: int) -> tuple[IntArray, IntArray]:
        """Streams and rows of all slots of a span, read-only."""
        num_slots = self._span_steps * self.global_batch_samples
        slots = np.arange(span * num_slots, (span + 1) * num_slots, dtype=np.int64)
        # Slots before the first belong to steps that another order gave.
        slots = np.maximum(slots - self._first_slot, 0)
        periods, positions = np.divmod(slots, len(self._sequence))
        streams = self._sequence[positions]
        draws = periods * self._parts[streams] + self._ranks[positions]
        draws += self._drawn_before[streams]
        rows = self._rows(streams, draws)
        for array in (streams, rows):
            array.setflags(write=False)
        return streams, rows

    def _rows(self, streams: IntArray, draws: IntArray) -> IntArray:
        """Row of the ``draws``-th sample (0-based) of each of ``streams``."""
        epochs, positions = np.divmod(draws, self._samples[streams])
        keys = mix(self._keys[streams] + mix(epochs.astype(np.uint64) + GOLDEN))
        rows = _shuffle(positions, self._samples[streams], keys)
        for index, stream in enumerate(self._streams):
            if stream.samples < stream.available:
                mine = np.flatnonzero(streams == index)
                if mine.size:
                    rows[mine] = kept_rows(stream, rows[mine])
        return rows


def _shuffle(positions: IntArray, sizes: IntArray, keys: KeyArray) -> IntArray:
    """Row at each position of an epoch of ``sizes`` rows.

    Chunks are permuted, and rows inside a window of chunks.
    """
    window_rows = CHUNK_ROWS * WINDOW_CHUNKS
    window = positions // window_rows
    start = window * window_rows
    window_keys = mix(keys ^ mix(window.astype(np.uint64) + _ROWS))
    rows = start + permute(positions - start, np.minimum(sizes - start, window_rows), window_keys)
    chunk, offset = np.divmod(rows, CHUNK_ROWS)
    whole_chunks = sizes // CHUNK_ROWS
    whole = chunk < whole_chunks
    chunk[whole] = permute(chunk[whole], whole_chunks[whole], mix(keys[whole] ^ _CHUNKS))
    # The rows after the last whole chunk keep their place; turning the ring makes them others in
    # every epoch.
    rotation = (mix(keys ^ _ROTATION) % sizes.astype(np.uint64)).astype(np.int64)
    return (chunk * CHUNK_ROWS + offset + rotation) % sizes


@lru_cache(maxsize=64)
def _sequence_of(parts: tuple[int, ...]) -> tuple[IntArray, IntArray]:
    """Stream of every slot of one period, and its rank among the stream's slots of the period.

    Just-in-time sequencing (Steiner & Yeomans 1993): to stay within one sample of its share, the
    j-th sample of a stream (from 1) may come from slot floor((j - 1) D / parts) + 1 on and must
    have come by slot ceil(j D / parts). Earliest deadline first finds such a sequence whenever
    there is one, and there always is; of equal deadlines the first stream goes first.
    """
    total = sum(parts)
    streams = np.repeat(np.arange(len(parts)), parts)
    shares = np.repeat(parts, parts)
    ranks = np.concatenate([np.arange(count) for count in parts])
    releases = ranks * total // shares
    # In 16 bits, which numpy sorts in linear time; jobs of a stream never share a deadline.
    last_slots = (-(-(ranks + 1) * total // shares) - 1).astype(np.uint16)
    by_deadline = np.argsort(last_slots, kind="stable")
    slots = np.array(_first_free_slots(releases[by_deadline].tolist()))
    sequence, rank_of_slot = np.empty(total, np.int64), np.empty(total, np.int64)
    sequence[slots], rank_of_slot[slots] = streams[by_deadline], ranks[by_deadline]
    return sequence, rank_of_slot


def _first_free_slots(releases: list[int]) -> list[int]:
    """Slot of each job, when one after another takes the first free slot from its release on.

    That is what a queue of open jobs, served by priority, does as well, because no job is ever held
    up by one of lower priority; but here a slot is mostly the next one, and no queue is needed.
    """
    free: list[int] = []  # below the frontier, ascending; fewer than there are streams
    frontier = 0
    slots: list[int] = []
    take = slots.append
    for release in releases:
        if free:
            place = bisect_left(free, release)
            if place < len(free):
                take(free.pop(place))
                continue
        if release > frontier:
            free.extend(range(frontier, release))
            frontier = release
        take(frontier)
        frontier += 1
    return slots


def _check(stream: Stream) -> None:
    """Refuse a stream that nothing can be drawn from."""
    if stream.parts < 1:
        raise ValueError(f"stream {stream.name} must have at least 1 part, got {stream.parts}")
    if not 1 <= stream.samples <= stream.available:
        raise ValueError(
            f"stream {stream.name} must draw from 1 to {stream.available} available samples, "
            f"got {stream.samples}"
        )
