"""One worker's part of every global batch, read ahead by one step.

Slots go to ranks in contiguous ranges, so the set of samples of a step is the same for any number
of workers; only who reads them changes.
"""

import time
import zlib
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from training.order import Order
from training.shards import TrainShards


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
    """Sum of the CRC-32 of every row read: over all ranks it depends on the set of samples only."""
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
        self._order, self._shards = order, shards
        self._micro_batch_size = micro_batch_size

    def read(self, step: int) -> RankBatch:
        """This rank's part of the global batch of ``step`` (0-based). Safe to retry."""
        streams, rows = (part[self._mine] for part in self._order.step(step))
        tokens = np.empty((len(rows), 0), np.int64)
        for stream in np.unique(streams).tolist():
            read = self._shards[stream].rows(rows[streams == stream])
            if not tokens.size:
                tokens = np.empty((len(rows), read.shape[1]), np.int64)
            tokens[streams == stream] = read
        # Over int64, so that it does not depend on how wide a stream's tokens are stored.
        checksum = sum(zlib.crc32(row.data) for row in tokens)
        size = self._micro_batch_size
        return RankBatch(
            step=step,
            tokens=torch.from_numpy(tokens).split(size),
            streams=torch.from_numpy(streams.copy()).split(size),
            samples=tuple(zip(streams.tolist(), rows.tolist(), strict=True)),
            checksum=checksum,
        )

    def iterate(self, first_step: int, num_steps: int) -> Generator[RankBatch]:
        """Batches of ``first_step`` to ``num_steps - 1``, each read while the one before is used.

        Close the generator to stop early: it waits for the read under way and ends its thread.
        """
        with ThreadPoolExecutor(1, thread_name_prefix="batches") as reader:
            coming = reader.submit(self.read, first_step) if first_step < num_steps else None
            while coming is not None:
                started = time.perf_counter()
                batch = coming.result()
                waited = time.perf_counter() - started
                more = batch.step + 1 < num_steps
                coming = reader.submit(self.read, batch.step + 1) if more else None
                yield RankBatch(
                    step=batch.step,
                    tokens=batch.tokens,
                    streams=batch.streams,
                    samples=batch.samples,
                    checksum=batch.checksum,
                    wait_seconds=waited,
                )
