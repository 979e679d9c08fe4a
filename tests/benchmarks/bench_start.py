"""From a new process to its first batch: ours and mosaicml-streaming's, from a store that is not
local.

``cold``: nothing cached. ``resume``: a run that has read its first batch goes on in the middle of
the epoch. Every start is a process of its own; imports are timed apart. Ours checks the hash of
every shard that it opens; theirs is told the state that its own ``state_dict`` gives. Run it with
``make bench``, or ``python tests/benchmarks/bench_start.py --help``.
"""

# ruff: noqa: T201  a script for people

import argparse
import importlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from storage.local_objects import LocalObjects

BATCH = 256
SEQ_LEN = 15
ROWS_PER_SHARD = 1 << 15
SOURCES = ("ours", "streaming")
KINDS = ("cold", "resume")


class Remote(LocalObjects):
    """A store whose files have to be fetched, as fast as the disk copies them."""

    def local_path(self, key: str) -> Path | None:  # noqa: ARG002  the protocol's
        return None


def main() -> None:
    """Measure and print; with ``--start``, be one of the processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--start", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.start:
        who, kind, folder, samples = arguments.start
        print("answer", json.dumps(_start(who, kind, Path(folder), int(samples))))
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        _write(root, arguments.samples)
        times: dict[tuple[str, str], list[tuple[float, float]]] = {
            (who, kind): [] for kind in KINDS for who in SOURCES
        }
        for _ in range(arguments.rounds):
            for kind in KINDS:
                for who in SOURCES:
                    if kind == "cold":
                        shutil.rmtree(root / f"cache-{who}", ignore_errors=True)
                    times[who, kind].append(_answer(who, kind, root, arguments.samples))
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load "
        f"{os.getloadavg()[0]:.1f}; {arguments.samples:,} samples, batches of {BATCH}"
    )
    print(f"{'':22}{'imports s':>12}{'first batch ms':>16}{'best':>10}{'ratio':>8}")
    for (who, kind), rows in times.items():
        imports, seconds = (statistics.median(column) for column in zip(*rows, strict=True))
        ours = statistics.median(second for _, second in times["ours", kind])
        best = min(second for _, second in rows)
        print(
            f"{kind + ': ' + who:22}{imports:12.2f}{1e3 * seconds:16.1f}{1e3 * best:10.1f}"
            f"{seconds / ours:8.1f}"
        )


def _answer(who: str, kind: str, root: Path, samples: int) -> tuple[float, float]:
    command = [sys.executable, __file__, "--start", who, kind, str(root), str(samples)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        if line.startswith("answer "):
            imports, seconds = json.loads(line.removeprefix("answer "))
            return imports, seconds
    raise RuntimeError(f"{who} {kind} did not answer: {done.stderr[-2000:]}")


def _write(root: Path, samples: int) -> None:
    """Tiny samples: what is measured grows with their number, not with their size."""
    from tests.training.tiny_run import put_train_shards

    rows = np.random.default_rng(0).integers(0, 2**16, (samples, SEQ_LEN + 1), dtype=np.uint16)
    files = put_train_shards(
        LocalObjects(root), "s", "web/train", rows, rows_per_shard=ROWS_PER_SHARD
    )
    (root / "files.json").write_text(json.dumps([(f.name, f.size, f.sha256) for f in files]))


def _start(who: str, kind: str, root: Path, samples: int) -> tuple[float, float]:
    """Seconds of the imports, and from there to the first batch."""
    begun_at = time.perf_counter()
    start = _start_ours if who == "ours" else _start_streaming
    imported_at = start(kind, root, samples)
    return imported_at - begun_at, time.perf_counter() - imported_at


def _start_ours(kind: str, root: Path, samples: int) -> float:
    from storage.file_cache import FileCache
    from storage.manifest import FileDigest
    from training.config import Mixture, Stream
    from training.data.batches import Batches
    from training.data.order import Order
    from training.data.shards import MdsReader, TrainShards

    imported_at = time.perf_counter()
    files = [FileDigest(*row) for row in json.loads((root / "files.json").read_text())]
    cache = FileCache(root / "cache-ours")
    reader = MdsReader(Remote(root), "s", "web/train", files, cache)
    stream = Stream(
        snapshot="s",
        domain="web",
        prefix="s",
        parts=1,
        samples=samples,
        available=samples,
        is_replay=False,
    )
    order = Order(Mixture(streams=(stream,), seed=1), BATCH)
    batches = Batches(order, [TrainShards(reader, seq_len=SEQ_LEN)], micro_batch_size=BATCH)
    batches.read(0 if kind == "cold" else _middle(samples))
    return imported_at


def _start_streaming(kind: str, root: Path, samples: int) -> float:
    from training.foreign.torchvision_operators import declare_missing_operators

    declare_missing_operators()
    streaming: Any = importlib.import_module("streaming")
    imported_at = time.perf_counter()
    streaming.base.util.clean_stale_shared_memory()
    dataset = streaming.StreamingDataset(
        remote=str(root / "s/web/train"),
        local=str(root / "cache-streaming"),
        shuffle=True,
        batch_size=BATCH,
    )
    if kind == "resume":
        at = _middle(samples) * BATCH
        dataset.load_state_dict(dataset.state_dict(at, from_beginning=True) | {"epoch": 0})
    read = iter(dataset)
    np.stack([next(read)["tokens"] for _ in range(BATCH)]).astype(np.int64)
    return imported_at


def _middle(samples: int) -> int:
    return samples // BATCH // 2


if __name__ == "__main__":
    main()
