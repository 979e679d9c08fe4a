"""The peers' side of bench_near_duplicates.py, in environments of their own.

Imports nothing of this project. ``PEER sign TEXTS OUT`` writes the minima of each line,
``PEER dedup TEXTS OUT`` which lines are dropped; both print seconds and memory as JSON.
"""

# ruff: noqa: T201  a script for a script; each environment has one peer
# pyright: reportMissingImports=false, reportUnknownVariableType=false
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false

import json
import re
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

NGRAM, BANDS, ROWS, THRESHOLD = 5, 14, 8, 0.7
PERMUTATIONS = BANDS * ROWS
_WORD = re.compile(r"\w+")


def main() -> None:
    """Do what was asked once, and tell what it took."""
    peer, task, texts, out = sys.argv[1:]
    run = {"sign": _signers, "dedup": _deduplicators}[task]()[peer]()
    before = peak_kib()
    started_at, processor = time.perf_counter(), _processor_seconds()
    result = run(_lines(texts))
    seconds = [time.perf_counter() - started_at, _processor_seconds() - processor]
    peak = max(peak_kib(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    np.save(out, np.asarray(result))
    print(json.dumps({"seconds": seconds, "kib": peak - before}))


def peak_kib() -> int:
    """The most memory this program has had; getrusage counts that of who started it too."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0])


def _used() -> list[resource.struct_rusage]:
    """By this process and by those that it started and that ended."""
    return [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]


def _processor_seconds() -> float:
    return sum(used.ru_utime + used.ru_stime for used in _used())


Run = Callable[[Iterator[str]], Any]


def _lines(path: str) -> Iterator[str]:
    with Path(path).open(encoding="utf-8") as file:
        yield from file


def _shingles(text: str) -> set[bytes]:
    words = _WORD.findall(text.lower())
    return {" ".join(words[i : i + NGRAM]).encode() for i in range(len(words) - NGRAM + 1)}


def _signers() -> dict[str, Callable[[], Run]]:
    return {
        "datasketch": _datasketch_signer,
        "rensa": _rensa_signer,
        "datatrove": _datatrove_signer,
    }


def _datasketch_signer() -> Run:
    from datasketch import MinHash

    def run(lines: Iterator[str]) -> Any:
        # The faster of its ways: all permutations are made once.
        signed = MinHash.generator(map(_shingles, lines), num_perm=PERMUTATIONS)
        return [item.hashvalues for item in signed]

    return run


def _rensa_signer() -> Run:
    from rensa import RMinHash

    def run(lines: Iterator[str]) -> Any:
        signed: list[list[int]] = []
        for line in lines:
            item = RMinHash(num_perm=PERMUTATIONS, seed=1)
            item.update([shingle.decode() for shingle in _shingles(line)])
            signed.append(item.digest())
        return signed

    return run


def _datatrove_signer() -> Run:
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature

    step = MinhashDedupSignature(
        output_folder="/tmp/datatrove-unused",
        config=MinhashConfig(n_grams=NGRAM, num_buckets=BANDS, hashes_per_bucket=ROWS),
    )
    step.get_shingles("one two three four five six")

    def run(lines: Iterator[str]) -> Any:
        return [
            np.concatenate(
                [np.asarray(band) for band in step.get_signature(step.get_shingles(line))]
            )
            for line in lines
        ]

    return run


def _deduplicators() -> dict[str, Callable[[], Run]]:
    return {
        "datasketch": lambda: _datasketch_deduplicator(is_verified=False),
        "datasketch-verified": lambda: _datasketch_deduplicator(is_verified=True),
        "text-dedup": _text_dedup_deduplicator,
    }


def _datasketch_deduplicator(*, is_verified: bool) -> Run:
    from datasketch import MinHash, MinHashLSH

    def run(lines: Iterator[str]) -> Any:
        index = MinHashLSH(num_perm=PERMUTATIONS, params=(BANDS, ROWS))
        kept: dict[int, MinHash] = {}
        dropped: list[int] = []
        signed = MinHash.generator(map(_shingles, lines), num_perm=PERMUTATIONS)
        for number, item in enumerate(signed):
            found = index.query(item)
            if is_verified:
                found = [other for other in found if item.jaccard(kept[other]) >= THRESHOLD]
            if found:
                dropped.append(number)
                continue
            index.insert(number, item)
            if is_verified:
                kept[number] = item
        return dropped

    return run


def _text_dedup_deduplicator() -> Run:
    from datasets import load_from_disk
    from text_dedup.minhash import main as deduplicate

    def run(lines: Iterator[str]) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            texts = Path(folder) / "texts.jsonl"
            count = 0
            with texts.open("w", encoding="utf-8") as file:
                for line in lines:
                    file.write(json.dumps({"number": count, "text": line}) + "\n")
                    count += 1
            options = {
                "path": "json",
                "data_files": str(texts),
                "split": "train",
                "cache_dir": f"{folder}/cache",
                "output": f"{folder}/out",
                "column": "text",
                "num_proc": 1,
                "ngram": NGRAM,
                "num_perm": PERMUTATIONS,
                "b": BANDS,
                "r": ROWS,
                "hash_func": "xxh3",
                "hash_bits": 32,
            }
            words = [part for name, value in options.items() for part in (f"--{name}", str(value))]
            deduplicate(words, standalone_mode=False)
            kept = set(load_from_disk(f"{folder}/out")["number"])
        return [place for place in range(count) if place not in kept]

    return run


if __name__ == "__main__":
    main()
