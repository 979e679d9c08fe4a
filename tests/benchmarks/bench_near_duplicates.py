"""Near-duplicates beside datasketch, rensa and datatrove; then the index, alone.

Every run is a process of its own over the same lines of text, in turns, timed after its imports and
without compilation, on one core; memory is the peak above what the process had before. Errors come
before times. Read the ratios of processor time: a busy machine slows all alike. For example::

    python -m tests.benchmarks.bench_near_duplicates sign --peer-python datasketch=PYTHON

Peers need environments of their own; ``index``, ``refresh`` and ``whole`` have none.
"""

# ruff: noqa: T201  a script for people

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from storage.near_duplicate_index import NearDuplicateIndex
from tasks.near_duplicates.config import NearDuplicateConfig
from tasks.near_duplicates.screen import NearDuplicateScreen
from tasks.near_duplicates.signatures import minima_of
from tests.benchmarks.near_duplicates_index import measure_index, measure_refresh
from tests.benchmarks.near_duplicates_refresh import measure_whole
from tests.benchmarks.near_duplicates_text import Planted, with_planted
from tests.benchmarks.peer_near_duplicates import peak_kib
from tests.support.screening import screened

_CONFIG = NearDuplicateConfig()
_PEER = Path(__file__).with_name("peer_near_duplicates.py")
_BATCH = 1000
_SIGNERS = ("datasketch", "rensa", "datatrove")
_DEDUPLICATORS = ("datasketch", "datasketch-verified", "text-dedup")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("sign", "dedup", "index", "refresh", "whole", "own-run"))
    parser.add_argument("--documents", type=int)
    parser.add_argument("--words", type=int, default=300, help="of a document")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer-python", action="append", default=[], help="NAME=INTERPRETER")
    parser.add_argument("--own-run", nargs=3, help="TASK TEXTS OUT, as a process of its own")
    arguments = parser.parse_args()
    if arguments.what == "own-run":
        _own_run(*arguments.own_run)
        return
    print(f"{_machine()}, load {os.getloadavg()[0]:.1f}")
    if arguments.what == "index":
        measure_index(arguments.documents or 10_000_000)
    elif arguments.what == "refresh":
        measure_refresh(arguments.documents or 400_000, arguments.words)
    elif arguments.what == "whole":
        measure_whole(arguments.documents or 20_000, arguments.words, arguments.rounds)
    else:
        peers = dict(name.split("=", 1) for name in arguments.peer_python)
        measure = {"sign": _measure_signing, "dedup": _measure_deduplication}[arguments.what]
        measure(arguments, peers)


def _machine() -> str:
    models = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ]
    return f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores"


def _measure_signing(arguments: argparse.Namespace, peers: dict[str, str]) -> None:
    count = arguments.documents or 10_000
    texts, pairs = with_planted(count, num_words=arguments.words, share=0.4, seed=1)
    with tempfile.TemporaryDirectory() as folder:
        file = _written(texts, Path(folder))
        contestants = ["ours", *(name for name in _SIGNERS if name in peers)]
        runs = _in_turns("sign", contestants, peers, file, arguments.rounds)
        for name in contestants:
            minima = np.load(f"{file}.{name}.npy")
            errors = [
                float(np.mean(minima[pair.earlier] == minima[pair.later])) - pair.jaccard
                for pair in pairs
            ]
            print(
                f"{name}: estimate minus Jaccard over {len(pairs)} pairs: mean "
                f"{np.mean(errors):+.4f}, root of mean square {np.std(errors):.4f}"
            )
    megabytes = sum(map(len, texts)) / 1e6
    print(f"{count:,} documents, {megabytes:.1f} MB, {arguments.words} words each")
    _print(runs, count)


def _measure_deduplication(arguments: argparse.Namespace, peers: dict[str, str]) -> None:
    count = arguments.documents or 200_000
    texts, pairs = with_planted(count, num_words=arguments.words, share=0.2, seed=2)
    with tempfile.TemporaryDirectory() as folder:
        file = _written(texts, Path(folder))
        contestants = ["ours", *(name for name in _DEDUPLICATORS if name in peers)]
        runs = _in_turns("dedup", contestants, peers, file, arguments.rounds)
        for name in contestants:
            dropped = set(np.load(f"{file}.{name}.npy").tolist())
            told = [_score(dropped, pairs, at) for at in (0.7, 0.75, 0.8)]
            print(f"{name}: dropped {len(dropped):,}; " + "; ".join(told))
    print(
        f"{count:,} documents, {sum(map(len, texts)) / 1e6:.0f} MB, {len(pairs):,} planted pairs "
        "with Jaccard 0.5 to 1"
    )
    _print(runs, count)


def _score(dropped: set[int], pairs: Sequence[Planted], at: float) -> str:
    # Which of a pair goes is a matter of the rule: text-dedup drops the earlier one.
    wanted = [pair for pair in pairs if pair.jaccard >= at]
    hits = sum(pair.later in dropped or pair.earlier in dropped for pair in wanted)
    precision, recall = hits / max(1, len(dropped)), hits / len(wanted)
    f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
    return f"F1 at {at}: {f1:.4f} (precision {precision:.4f}, recall {recall:.4f})"


Told = dict[str, Any]
"""What a run says of itself: seconds (wall, processor), KiB."""


def _in_turns(
    task: str, names: Sequence[str], peers: dict[str, str], file: Path, rounds: int
) -> dict[str, list[Told]]:
    told: dict[str, list[Told]] = {name: [] for name in names}
    # One more for ours to compile in, which is told apart.
    first = _run(_command("ours", task, peers, file))
    print(f"ours, a first run: {first['compile_seconds']:.1f} s to import and compile or load")
    for _ in range(rounds):
        for name in names:
            told[name].append(_run(_command(name, task, peers, file)))
    return told


def _command(name: str, task: str, peers: dict[str, str], file: Path) -> list[str]:
    out = f"{file}.{name}.npy"
    if name == "ours":
        module = "tests.benchmarks.bench_near_duplicates"
        return [sys.executable, "-m", module, "own-run", "--own-run", task, str(file), out]
    return [peers[name], str(_PEER), name, task, str(file), out]


def _run(command: list[str]) -> Told:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def _print(runs: dict[str, list[Told]], count: int) -> None:
    print(f"{'':24}{'docs/s a core':>14}{'MiB':>8}{'time of ours':>14}{'lowest':>8}{'highest':>8}")
    ours = [run["seconds"][1] for run in runs["ours"]]
    for name, told in runs.items():
        seconds = [run["seconds"][1] for run in told]
        ratios = [theirs / mine for theirs, mine in zip(seconds, ours, strict=True)]
        memory = statistics.median(run["kib"] for run in told) / 1024
        print(
            f"{name:24}{count / statistics.median(seconds):14,.0f}{memory:8,.0f}"
            f"{statistics.median(ratios):13.1f}x{min(ratios):7.1f}x{max(ratios):7.1f}x"
        )


def _written(texts: Sequence[str], folder: Path) -> Path:
    file = folder / "texts"
    file.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return file


def _own_run(task: str, texts: str, out: str) -> None:
    started_at = time.perf_counter()
    run = {"sign": _sign, "dedup": _deduplicate}[task]
    run(iter(["a few words to compile with\n"] * 3))
    compile_seconds = time.perf_counter() - started_at
    before = peak_kib()
    started_at, processor = time.perf_counter(), time.process_time()
    result = run(_lines(texts))
    seconds = [time.perf_counter() - started_at, time.process_time() - processor]
    kib = peak_kib() - before
    np.save(out, result)
    told = {"seconds": seconds, "kib": kib, "compile_seconds": compile_seconds}
    print(json.dumps(told))


def _lines(path: str) -> Iterator[str]:
    with Path(path).open(encoding="utf-8") as file:
        yield from file


def _sign(lines: Iterator[str]) -> np.ndarray:
    signed: list[np.ndarray] = []
    batch: list[str] = []
    for line in lines:
        batch.append(line)
        if len(batch) == _BATCH:
            signed.append(minima_of(batch, _CONFIG.scheme)[0])
            batch = []
    signed.append(minima_of(batch, _CONFIG.scheme)[0])
    return np.concatenate(signed)


def _deduplicate(lines: Iterator[str]) -> np.ndarray:
    """The stage of a refresh, with the segment that it writes."""
    with tempfile.TemporaryDirectory() as folder:
        screen = NearDuplicateScreen(_CONFIG, NearDuplicateIndex(()), Path(folder))
        reasons: list[str] = []
        while batch := list(islice(lines, _BATCH)):
            reasons += screened(screen, _CONFIG, batch, first_row=len(reasons))
        screen.write(Path(folder) / "segment", "s")
    return np.flatnonzero([bool(reason) for reason in reasons])


if __name__ == "__main__":
    main()
