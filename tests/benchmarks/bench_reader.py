"""Tokens per second out of the same samples: our batches, mosaicml-streaming and litdata.

Every contestant reads each sample once, shuffled, into batches of int64 tokens in one process
without loader processes; "a core" divides by the processor time of all its threads. In a first
round that is not timed, each must give the same samples, byte for byte. Interleaved, so that a busy
machine slows all alike: read the ratios. ``np.memmap`` is the ceiling: one array of all samples,
nothing checked, no order but a table. Run it with ``make bench``, or ``python
tests/benchmarks/bench_reader.py --help``.

litdata needs other versions of some packages than this project: give the interpreter of an
environment of its own, else it is left out.
"""

# ruff: noqa: T201  a script for people

import argparse
import functools
import importlib
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from storage.file_cache import FileCache
from storage.local_objects import LocalObjects
from storage.manifest import FileDigest
from training.config import Mixture, Stream
from training.data.batches import Batches
from training.data.order import Order
from training.data.permutation import permute
from training.data.shards import MdsReader, TrainShards
from training.foreign.torchvision_operators import declare_missing_operators
from training.shard_writer import write_train_shards

Timed = tuple[float, float]
"""Wall and processor seconds."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=8192)
    parser.add_argument("--seq-len", type=int, default=2048, help="inputs of a sample")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--sources", type=int, default=8, help="of the mixed contestant")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--litdata-python", help="an interpreter that has litdata")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    # Whole batches of every source, so that all contestants read the same samples.
    samples = arguments.samples // (arguments.batch * arguments.sources)
    samples *= arguments.batch * arguments.sources
    with tempfile.TemporaryDirectory() as folder:
        rows = np.random.default_rng(0).integers(
            0, 2**16, (samples, arguments.seq_len + 1), dtype=np.uint16
        )
        contestants = _contestants(Path(folder), rows, arguments)
        wanted = sha256(b"".join(sorted(row.tobytes() for row in rows))).hexdigest()
        timed: dict[str, list[Timed]] = {name: [] for name in contestants}
        for round_number in range(arguments.rounds + 1):
            for name, run in contestants.items():
                if round_number:
                    timed[name].append(run(None))
                else:
                    found: list[bytes] = []
                    run(found)
                    digest = sha256(b"".join(sorted(found))).hexdigest()
                    assert digest == wanted, f"{name} read something else"
    _print(timed, samples * arguments.seq_len, arguments)


def _print(timed: dict[str, list[Timed]], tokens: int, arguments: argparse.Namespace) -> None:
    (name_of_ours, ours), *_ = timed.items()
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load "
        f"{os.getloadavg()[0]:.1f}; {tokens:,} tokens, {arguments.seq_len} a sample, batches of "
        f"{arguments.batch}, int64; all samples byte-equal"
    )
    print(f"million tokens a second; ratio a core: {name_of_ours} over each, round by round")
    print(f"{'':36}{'wall':>8}{'a core':>8}{'best':>8}{'ratio':>8}{'lowest':>8}{'highest':>8}")
    for name, times in timed.items():
        wall, core = (statistics.median(column) for column in zip(*times, strict=True))
        best = min(seconds for _, seconds in times)
        rates = "".join(f"{tokens / seconds / 1e6:8.1f}" for seconds in (wall, core, best))
        ratios = [theirs[1] / mine[1] for theirs, mine in zip(times, ours, strict=True)]
        print(
            f"{name:36}{rates}{statistics.median(ratios):8.2f}{min(ratios):8.2f}{max(ratios):8.2f}"
        )
    if arguments.litdata_python is None:
        print("litdata: absent, see --litdata-python")


Run = Callable[[list[bytes] | None], Timed]
"""Reads everything: times it, or puts the bytes of every sample into the list."""


def _contestants(root: Path, rows: np.ndarray, arguments: argparse.Namespace) -> dict[str, Run]:
    whole = _Source(root, "whole", rows)
    parts = [
        _Source(root, f"part{number}", part)
        for number, part in enumerate(np.split(rows, arguments.sources))
    ]
    is_open = _batches([whole], FileCache(root / "cache"), arguments.batch)
    of_many = _batches(parts, FileCache(root / "cache"), arguments.batch)
    num_steps = len(rows) // arguments.batch
    peers = _Peers(root, rows, arguments.batch)
    contestants: dict[str, Callable[[], Iterator[Tensor]]] = {
        "ours": lambda: _read(is_open, num_steps),
        "ours, opening and checking shards": lambda: _read(
            _batches([whole], FileCache(root / "cache"), arguments.batch), num_steps
        ),
        "ours, read ahead in a thread": lambda: (
            batch.tokens[0] for batch in is_open.iterate(0, num_steps)
        ),
        f"ours, {arguments.sources} sources": lambda: _read(of_many, num_steps),
        "np.memmap gather": peers.memmap,
        "streaming.StreamingDataset": peers.streaming_dataset,
        "streaming.LocalDataset": peers.local_dataset,
    }
    runs: dict[str, Run] = {
        name: functools.partial(_run, read) for name, read in contestants.items()
    }
    if arguments.litdata_python is not None:
        runs["litdata TokensLoader"] = _Litdata(root, rows, arguments)
    return runs


def _run(read: Callable[[], Iterator[Tensor]], found: list[bytes] | None) -> Timed:
    if found is not None:
        for batch in read():
            assert batch.dtype == torch.int64
            found += [row.tobytes() for row in batch.numpy().astype("<u2")]
        return 0.0, 0.0
    started_at, processor = time.perf_counter(), time.process_time()
    for _ in read():
        pass
    return time.perf_counter() - started_at, time.process_time() - processor


class _Source:
    """A stream over a snapshot of its own."""

    def __init__(self, root: Path, name: str, rows: np.ndarray) -> None:
        self.root, self.name, self.num_rows, self.seq_len = root, name, *rows.shape
        self.files: tuple[FileDigest, ...] = write_train_shards(
            [rows],
            root / name / "web/train",
            seq_len=rows.shape[1] - 1,
            token_dtype=rows.dtype.name,
            prefix="web/train",
        )

    def shards(self, cache: FileCache) -> TrainShards:
        reader = MdsReader(LocalObjects(self.root), self.name, "web/train", self.files, cache)
        return TrainShards(reader, seq_len=self.seq_len - 1)

    def stream(self) -> Stream:
        return Stream(
            snapshot=self.name,
            domain="web",
            prefix=self.name,
            parts=1,
            samples=self.num_rows,
            available=self.num_rows,
            is_replay=False,
        )


def _batches(sources: list[_Source], cache: FileCache, batch: int) -> Batches:
    mixture = Mixture(streams=tuple(source.stream() for source in sources), seed=1)
    shards = [source.shards(cache) for source in sources]
    return Batches(Order(mixture, batch), shards, micro_batch_size=batch)


def _read(batches: Batches, num_steps: int) -> Iterator[Tensor]:
    for step in range(num_steps):
        yield batches.read(step).tokens[0]


class _Peers:
    """Others, in this process."""

    def __init__(self, root: Path, rows: np.ndarray, batch: int) -> None:
        declare_missing_operators()
        self._streaming: Any = importlib.import_module("streaming")
        self._local, self._batch, self._num_rows = str(root / "whole/web/train"), batch, len(rows)
        rows.tofile(root / "all")
        self._memmap = np.memmap(root / "all", np.uint16, "r", shape=rows.shape)
        self._shuffled = permute(np.arange(len(rows)), len(rows), 1)

    def memmap(self) -> Iterator[Tensor]:
        for start in range(0, self._num_rows, self._batch):
            wanted = self._shuffled[start : start + self._batch]
            yield torch.from_numpy(self._memmap[wanted].astype(np.int64))

    def streaming_dataset(self) -> Iterator[Tensor]:
        self._streaming.base.util.clean_stale_shared_memory()
        dataset = self._streaming.StreamingDataset(
            local=self._local, shuffle=True, batch_size=self._batch
        )
        samples = iter(dataset)
        for _ in range(0, self._num_rows, self._batch):
            yield self._stacked([next(samples)["tokens"] for _ in range(self._batch)])

    def local_dataset(self) -> Iterator[Tensor]:
        dataset = self._streaming.LocalDataset(local=self._local)
        for start in range(0, self._num_rows, self._batch):
            wanted = self._shuffled[start : start + self._batch].tolist()
            yield self._stacked([dataset[row]["tokens"] for row in wanted])

    @staticmethod
    def _stacked(samples: list[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.stack(samples).astype(np.int64))


class _Litdata:
    """litdata in a process of its own, which waits between rounds."""

    def __init__(self, root: Path, rows: np.ndarray, arguments: argparse.Namespace) -> None:
        np.save(root / "rows.npy", rows)
        script = Path(__file__).with_name("peer_litdata.py")
        command = [arguments.litdata_python, str(script), str(root), str(arguments.batch)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self, found: list[bytes] | None) -> Timed:
        answer = self._ask("time" if found is None else "check")
        if found is not None:
            found += [bytes.fromhex(row) for row in answer]
            return 0.0, 0.0
        wall, processor = answer
        return wall, processor

    def _ask(self, question: str) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{question}\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("answer "):
                return json.loads(line.removeprefix("answer "))
        raise RuntimeError(f"litdata's process ended with {self._process.wait()}")


if __name__ == "__main__":
    main()
