"""What it costs to know the order of samples: ours and mosaicml-streaming's (py1e).

Ours is a function of the step: built once, then a batch is computed when it is needed, also the
first one after a restart in the middle. Theirs shuffles a whole epoch before its first sample,
again after every restart; the partition over ranks, which comes on top, is not counted. Run it with
``make bench``, or ``python tests/benchmarks/bench_order.py --help``.
"""

# ruff: noqa: T201  a script for people

import argparse
import itertools
import os
import platform
import statistics
import time
import tracemalloc
from collections.abc import Callable
from functools import partial

import numpy as np

from training.config import Mixture, Stream
from training.data.kept_rows import _table
from training.data.order import Order, _sequence_of
from training.foreign.torchvision_operators import declare_missing_operators

BATCH = 256
SHARD_ROWS = 2048
PARTS = (7919, 1213, 503, 365)
"""Of one new and three replayed streams, 10,000 in all."""
MOST_PARTS = (51_899, 7_950, 3_295, 2_392)
"""65,536 in all, the most that a mixture may have."""
SIZES = (10_000, 1_000_000, 2_000_000_000)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=1_000_000, help="of streaming's one stream")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    epoch_of = _their_shuffle()
    shard_sizes = np.full(arguments.samples // SHARD_ROWS, SHARD_ROWS, np.int64)
    contestants: dict[str, Callable[[], object]] = {
        f"ours, resume: {sum(parts):,} parts, {samples:,} samples": partial(
            _resumed, mixture_of(samples, parts)
        )
        for parts in (PARTS, MOST_PARTS)
        for samples in SIZES
    }
    order = Order(mixture_of(SIZES[-1]), BATCH)
    steps = itertools.count()
    contestants["ours: the next batch"] = lambda: order.step(next(steps))
    theirs = f"streaming: an epoch of {arguments.samples:,}"
    contestants[theirs] = lambda: epoch_of(shard_sizes)
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(arguments.rounds):
        for name, work in contestants.items():
            started_at = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - started_at)
    print(
        f"{platform.processor() or platform.machine()}, load {os.getloadavg()[0]:.1f}; 4 streams, "
        f"3 of them a fifth of their slice, batch {BATCH}"
    )
    print(f"{'':52}{'ms':>10}{'best':>10}{'memory MiB':>12}")
    for name, work in contestants.items():
        median, best = statistics.median(seconds[name]), min(seconds[name])
        print(f"{name:52}{1e3 * median:10.2f}{1e3 * best:10.2f}{_peak_bytes(work) / 2**20:12.1f}")


def _resumed(mixture: Mixture) -> object:
    """What a new process does before its first batch, in the middle of the tenth epoch."""
    _sequence_of.cache_clear()
    _table.cache_clear()
    return Order(mixture, BATCH).step(10 * mixture.streams[0].samples // BATCH + 3)


def _peak_bytes(work: Callable[[], object]) -> int:
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def mixture_of(samples: int, shares: tuple[int, ...] = PARTS) -> Mixture:
    """One stream that is read whole, three of which a fifth was kept for replay."""
    streams = tuple(
        Stream(
            snapshot=f"{number:012d}",
            domain="prose",
            prefix="",
            parts=parts,
            samples=samples if number == 0 else samples // 5,
            available=samples,
            is_replay=number > 0,
        )
        for number, parts in enumerate(shares)
    )
    return Mixture(streams=streams, seed=1)


def _their_shuffle() -> Callable[[np.ndarray], object]:
    declare_missing_operators()
    from streaming.base.shuffle import get_shuffle

    return lambda shard_sizes: get_shuffle("py1e", shard_sizes, 1, 9176, 0)


if __name__ == "__main__":
    main()
