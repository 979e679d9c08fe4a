"""Writing training and held-out samples as MDS shards with digests, and MDSWriter without any.

    python tests/benchmarks/bench_shards.py

Both write the same files, which is checked, in turns, and into memory if the temporary folder is in
memory; times are processor seconds, because a disk is not what is compared.
"""
# ruff: noqa: T201  a script that prints its table

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from storage.manifest import digest_file
from training.data.holdout import HoldoutDocument
from training.foreign.torchvision_operators import declare_missing_operators
from training.shard_writer import SHARD_BYTES, write_holdout_shards, write_train_shards

declare_missing_operators()
from streaming import MDSWriter  # noqa: E402  after the operators

_HOLDOUT_COLUMNS = {"document": "str", "cluster": "str", "tokens": "bytes", "text_bytes": "int"}
_BLOCK_ROWS = 1000

Write = Callable[[Path], object]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=128, help="of samples")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    print(
        "| samples | ours, MB/s | MDSWriter, MB/s | MDSWriter and digests, MB/s | times MDSWriter |"
    )
    print("| --- | ---: | ---: | ---: | ---: |")
    for dtype, seq_len in (("uint16", 512), ("uint16", 2048), ("uint32", 2048), ("uint32", 8192)):
        count = options.megabytes * 1_000_000 // ((seq_len + 1) * np.dtype(dtype).itemsize)
        rows = rng.integers(0, 60_000, (count, seq_len + 1)).astype(dtype)
        _report(f"{seq_len} inputs, {dtype}", *_of_training(rows, seq_len, dtype), options.rounds)
    tokens = rng.integers(0, 60_000, options.megabytes * 500_000).astype(np.uint16)
    lengths = rng.integers(50, 4000, len(tokens) // 4000)
    _report("held out, uint16", *_of_holdout(tokens, lengths), options.rounds)


def _of_training(rows: np.ndarray, seq_len: int, dtype: str) -> tuple[Write, Write]:
    blocks = [rows[first : first + _BLOCK_ROWS] for first in range(0, len(rows), _BLOCK_ROWS)]

    def ours(directory: Path) -> object:
        return write_train_shards(
            blocks, directory, seq_len=seq_len, token_dtype=dtype, prefix="web/train"
        )

    def theirs(directory: Path) -> object:
        columns = {"tokens": f"ndarray:{dtype}:{seq_len + 1}"}
        with MDSWriter(columns=columns, out=str(directory), size_limit=SHARD_BYTES) as writer:
            for row in rows:
                writer.write({"tokens": row})

    return ours, theirs


def _of_holdout(tokens: np.ndarray, lengths: np.ndarray) -> tuple[Write, Write]:
    ends = np.cumsum(lengths)
    documents = [
        HoldoutDocument(
            document=f"web/{end}",
            cluster=str(end),
            tokens=tokens[end - length : end],
            text_bytes=4 * int(length),
        )
        for end, length in zip(ends, lengths, strict=True)
    ]

    def ours(directory: Path) -> object:
        return write_holdout_shards(
            documents, directory, token_dtype="uint16", prefix="web/holdout"
        )

    def theirs(directory: Path) -> object:
        with MDSWriter(
            columns=_HOLDOUT_COLUMNS, out=str(directory), size_limit=SHARD_BYTES
        ) as writer:
            for row in documents:
                sample: dict[str, Any] = {
                    "document": row.document,
                    "cluster": row.cluster,
                    "tokens": row.tokens.tobytes(),
                    "text_bytes": row.text_bytes,
                }
                writer.write(sample)

    return ours, theirs


def _report(name: str, ours: Write, theirs: Write, rounds: int) -> None:
    rates: list[tuple[float, float, float]] = []
    for number in range(rounds + 1):
        with tempfile.TemporaryDirectory() as scratch:
            mine, peer = Path(scratch, "ours"), Path(scratch, "theirs")
            our_seconds = _seconds(ours, mine)
            seconds = _seconds(theirs, peer)
            digesting = _seconds(_digest, peer)
            size = sum(path.stat().st_size for path in peer.iterdir()) / 1e6
            for path in peer.iterdir():
                assert path.read_bytes() == (mine / path.name).read_bytes(), f"{path.name} differs"
        # The first round fills caches and is not counted.
        if number:
            rates.append((size / our_seconds, size / seconds, size / (seconds + digesting)))
    our_rate, rate, digested = (statistics.median(column) for column in zip(*rates, strict=True))
    ratios = sorted(mine / peer for mine, peer, _ in rates)
    told = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    print(f"| {name} | {our_rate:,.0f} | {rate:,.0f} | {digested:,.0f} | {told} |")


def _digest(directory: Path) -> object:
    return [digest_file(path, path.name) for path in directory.iterdir()]


def _seconds(write: Write, directory: Path) -> float:
    began = time.process_time()
    write(directory)
    return time.process_time() - began


if __name__ == "__main__":
    main()
