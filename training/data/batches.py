"""One worker's part of every global batch, read ahead.

Slots go to ranks in contiguous ranges, so the set of samples of a step is the same for any number
of workers; only who reads them changes.
"""

import time
from bisect import bisect_right
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.data.order import Order
from training.data.permutation import GOLDEN, mix
from training.data.shards import TrainShards

_HAND_OVER_TOKENS = 2**18
_MAX_TOKENS_AHEAD = 2**23
"""64 MiB; large batches are read one ahead however large they are."""
_MAX_DEPTH = 8
_MAX_FETCHES = 8
"""Shards opened at once when the window of the order moves on to new ones."""


@dataclass(frozen=True, slots=True)
class RankBatch:
    """What one rank trains on in one step."""

    step: int
    """0-based: the batch that makes the state of ``step`` that of ``step + 1``."""
    tokens: tuple[Tensor, ...]
    """Micro batches, ``int64[B, T + 1]``; the last one may be shorter."""
    streams: tuple[Tensor, ...]
    """Stream of each row of each micro batch, ``int64[B]``."""
    samples: tuple[tuple[int, int], ...]
    """(stream, row) of every sample, in order."""
    checksum: int
    """Sum of a hash of every row read: over all ranks it depends on the set of samples only.

    The hash is multilinear (after Lemire & Kaser 2014, "Strongly universal string hashing is
    fast"): the upper half of the sum of the row's 64-bit words, each times a fixed odd number of
    its place, modulo 2**64. Every token counts, at a tenth of the price of a CRC. Rows are taken in
    the width of the widest stream of the mixture."""
    wait_seconds: float = 0.0
    """How long the loop waited for it."""


class Batches:
    """Reads one rank's part of any global batch.

    Args:
        order: Which samples a step holds.
        shards: The samples, a reader a stream, in the mixture's order.
        micro_batch_size: Rows of one forward pass.
        rank: This worker.
        world_size: Workers; must divide the samples of a global batch.
    """

    def __init__(
        self,
        order: Order,
        shards: Sequence[TrainShards],
        *,
        micro_batch_size: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if order.global_batch_samples % world_size:
            raise ValueError(
                f"{world_size} workers cannot share the {order.global_batch_samples} samples of a "
                "global batch evenly; choose a number that divides it"
            )
        per_rank = order.global_batch_samples // world_size
        self._mine = slice(rank * per_rank, (rank + 1) * per_rank)
        self.order, self.shards = order, shards
        self._micro_batch_size = micro_batch_size
        self._weights: NDArray[np.uint64] = np.empty(0, np.uint64)
        # The widest of all streams, so that the checksum does not depend on who reads a row.
        self._dtype = np.result_type(*(reader.dtype for reader in shards))

    def read(self, step: int) -> RankBatch:
        """This rank's part of the global batch of ``step`` (0-based). Safe to retry."""
        streams, rows = (part[self._mine] for part in self.order.step(step))
        samples = tuple(zip(streams.tolist(), rows.tolist(), strict=True))
        # Rows of whole 64-bit words, as narrow as they are stored: half as much work for the hash.
        width = self.shards[0].seq_len + 1
        tokens = np.zeros((len(samples), -(-width // 4) * 4), self._dtype)
        opened = [shards.open_tables() for shards in self.shards]
        closed: list[int] = []
        for place, (stream, row) in enumerate(samples):
            first_rows, tables = opened[stream]
            shard = bisect_right(first_rows, row) - 1
            if shard in tables:
                tokens[place, :width] = tables[shard][row - first_rows[shard]]
            else:
                closed.append(place)
        if closed:
            self._open([samples[place] for place in closed])
            for place in closed:
                stream, row = samples[place]
                tokens[place, :width] = self.shards[stream].row(row)
        size = self._micro_batch_size
        return RankBatch(
            step=step,
            tokens=_cut(torch.from_numpy(tokens[:, :width].astype(np.int64)), size),
            streams=_cut(torch.from_numpy(streams.copy()), size),
            samples=samples,
            checksum=self._checksum_of(tokens),
        )

    def iterate(self, first_step: int, num_steps: int) -> Generator[RankBatch]:
        """Batches of ``first_step`` to ``num_steps - 1``, read while those before are used.

        Close the generator to stop early: it waits for the read under way and ends its thread.
        """
        batch_tokens = (self._mine.stop - self._mine.start) * self.shards[0].seq_len
        # Small batches together, for one hand-over between the threads costs as much as reading.
        together = max(1, _HAND_OVER_TOKENS // batch_tokens)
        depth = min(_MAX_DEPTH, max(1, _MAX_TOKENS_AHEAD // (together * batch_tokens)))
        spans = iter(
            range(start, min(start + together, num_steps))
            for start in range(first_step, num_steps, together)
        )
        reader = ThreadPoolExecutor(1, thread_name_prefix="batches")
        try:
            coming = deque(reader.submit(self._read_all, span) for span in islice(spans, depth))
            while coming:
                started = time.perf_counter()
                first, *others = coming.popleft().result()
                waited = time.perf_counter() - started
                coming.extend(reader.submit(self._read_all, span) for span in islice(spans, 1))
                yield replace(first, wait_seconds=waited)
                yield from others
        finally:
            reader.shutdown(cancel_futures=True)

    def _read_all(self, steps: range) -> list[RankBatch]:
        return [self.read(step) for step in steps]

    def _open(self, samples: Sequence[tuple[int, int]]) -> None:
        """Open the shards that hold ``samples``, several at once: each may have to be fetched."""
        one_of_each = {
            (stream, self.shards[stream].shard_of(row)): (stream, row) for stream, row in samples
        }
        if len(one_of_each) == 1:
            return  # reading it opens it
        with ThreadPoolExecutor(
            min(_MAX_FETCHES, len(one_of_each)), thread_name_prefix="batches-open"
        ) as pool:
            for opened in [
                pool.submit(self.shards[stream].row, row) for stream, row in one_of_each.values()
            ]:
                opened.result()

    def _checksum_of(self, tokens: NDArray[Any]) -> int:
        """See ``RankBatch.checksum``; a hash of 32 bits a row, so that sums do not overflow."""
        words = tokens.view(np.uint64)
        if len(self._weights) != words.shape[1]:
            self._weights = mix(np.arange(1, words.shape[1] + 1, dtype=np.uint64) * GOLDEN)
            self._weights |= np.uint64(1)
        hashes = np.einsum("rw,w->r", words, self._weights) >> np.uint64(32)
        return int(np.add.reduce(hashes))


def _cut(rows: Tensor, size: int) -> tuple[Tensor, ...]:
    """Parts of ``size`` rows, the last one perhaps shorter; views."""
    # torch.split costs as much as reading several rows.
    return (rows,) if len(rows) <= size else rows.split(size)
