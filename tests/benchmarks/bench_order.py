"""What it costs to know the order of samples: ours and mosaicml-streaming's (py1e).

Ours is a function of the step: built once, then a batch is computed when it is needed, also the
first one after a restart in the middle. Theirs shuffles a whole epoch before its first sample,
again after every restart; the partition over ranks, which comes on top, is not counted. Run it with
``make bench``, or ``python tests/benchmarks/bench_order.py --help``.
"""

# ruff: noqa: T201  a script for people

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np

from training.config import Mixture, Stream
from training.order import Order, _sequence_of
from training.torchvision_operators import declare_missing_operators

BATCH = 256
SHARD_ROWS = 2048
PARTS = (7919, 1213, 503, 365)
"""Of one new and three replayed streams, 10,000 in all."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=1_000_000, help="of each stream")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    mixture = mixture_of(arguments.samples)
    order = Order(mixture, BATCH)
    late = 10 * arguments.samples // BATCH
    epoch_of = _their_shuffle()
    shard_sizes = np.full(arguments.samples // SHARD_ROWS, SHARD_ROWS, np.int64)
    contestants: dict[str, tuple[int, Callable[[], object]]] = {
        "ours: construction": (0, lambda: _built(mixture)),
        "ours: first batch of a life": (BATCH, lambda: Order(mixture, BATCH).step(late)),
        "ours: any later batch": (BATCH, lambda: order.step(late)),
        "streaming: one stream, an epoch": (int(shard_sizes.sum()), lambda: epoch_of(shard_sizes)),
    }
    order.step(late)
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(arguments.rounds):
        for name, (_, work) in contestants.items():
            started_at = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - started_at)
    print(f"4 streams of {arguments.samples:,} samples, {sum(PARTS):,} parts, batch {BATCH}")
    print(f"{'':34}{'ms':>10}{'best':>10}{'us a sample':>14}")
    for name, (samples, _) in contestants.items():
        median, best = statistics.median(seconds[name]), min(seconds[name])
        each = f"{1e6 * median / samples:14.3f}" if samples else ""
        print(f"{name:34}{1e3 * median:10.2f}{1e3 * best:10.2f}{each}")


def mixture_of(samples: int) -> Mixture:
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
        for number, parts in enumerate(PARTS)
    )
    return Mixture(streams=streams, seed=1)


def _built(mixture: Mixture) -> Order:
    _sequence_of.cache_clear()
    return Order(mixture, BATCH)


def _their_shuffle() -> Callable[[np.ndarray], object]:
    declare_missing_operators()
    from streaming.base.shuffle import get_shuffle

    return lambda shard_sizes: get_shuffle("py1e", shard_sizes, 1, 9176, 0)


if __name__ == "__main__":
    main()
