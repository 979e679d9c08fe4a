"""Tokens per second out of the same MDS shards: our reader and mosaicml-streaming's dataset.

Each round opens the shards anew and reads every sample once, shuffled, into batches. Ours checks
every shard's SHA-256 on the way; theirs checks nothing. Interleaved, so that a busy machine slows
all alike: read the ratios. Run it with ``make bench``, or ``python
tests/benchmarks/bench_reader.py --help``.
"""

# ruff: noqa: T201  a script for people

import argparse
import importlib
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from storage.local_objects import LocalObjects
from storage.manifest import FileDigest
from training.order import permute
from training.shard_writer import write_train_shards
from training.shards import MdsReader, TrainShards
from training.torchvision_operators import declare_missing_operators

BATCH = 64


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=8192)
    parser.add_argument("--seq-len", type=int, default=1024, help="inputs of a sample")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        rows = np.random.default_rng(0).integers(
            0, 2**16, (arguments.samples, arguments.seq_len + 1), dtype=np.uint16
        )
        files = write_train_shards(rows, root / "snap/web/train", prefix="web/train")
        contestants = _contestants(root, rows, files)
        seconds: dict[str, list[float]] = {name: [] for name in contestants}
        for round_number in range(arguments.rounds + 1):
            for name, read in contestants.items():
                started_at = time.perf_counter()
                total = read()
                if round_number:  # the first warms up
                    seconds[name].append(time.perf_counter() - started_at)
                assert total == int(rows.sum(dtype=np.int64)), f"{name} read something else"
    _print(seconds, arguments.samples * arguments.seq_len)


def _print(seconds: dict[str, list[float]], tokens: int) -> None:
    (name_of_ours, ours), *_ = seconds.items()
    print(f"{tokens:,} tokens, batches of {BATCH}; ratio: {name_of_ours} over each, round by round")
    print(f"{'':30}{'tokens/s':>14}{'best':>14}{'ratio':>8}{'lowest':>8}{'highest':>8}")
    for name, times in seconds.items():
        ratios = [theirs / mine for theirs, mine in zip(times, ours, strict=True)]
        print(
            f"{name:30}{tokens / statistics.median(times):14,.0f}{tokens / min(times):14,.0f}"
            f"{statistics.median(ratios):8.1f}{min(ratios):8.1f}{max(ratios):8.1f}"
        )


def _contestants(
    root: Path, rows: np.ndarray, files: tuple[FileDigest, ...]
) -> dict[str, Callable[[], int]]:
    """Each reads everything and returns the sum of all tokens."""
    declare_missing_operators()
    streaming: Any = importlib.import_module("streaming")
    local = str(root / "snap/web/train")
    shuffled = permute(np.arange(len(rows)), len(rows), 1)
    batches = [shuffled[start : start + BATCH] for start in range(0, len(rows), BATCH)]
    seq_len = rows.shape[1] - 1

    def ours() -> int:
        reader = MdsReader(LocalObjects(root), "snap", "web/train", files, root / "cache")
        shards = TrainShards(reader, seq_len=seq_len)
        return sum(int(shards.rows(batch).sum(dtype=np.int64)) for batch in batches)

    def by_index() -> int:
        dataset = streaming.LocalDataset(local=local)
        return sum(
            int(np.stack([dataset[int(row)]["tokens"] for row in batch]).sum(dtype=np.int64))
            for batch in batches
        )

    def iterated() -> int:
        streaming.base.util.clean_stale_shared_memory()
        samples = iter(streaming.StreamingDataset(local=local, shuffle=True, batch_size=BATCH))
        return sum(
            int(np.stack([next(samples)["tokens"] for _ in batch]).sum(dtype=np.int64))
            for batch in batches
        )

    return {
        "ours": ours,
        "streaming.LocalDataset": by_index,
        "streaming.StreamingDataset": iterated,
    }


if __name__ == "__main__":
    main()
