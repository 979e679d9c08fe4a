"""A refresh of 1% new documents into a lineage of many parts, beside a first one of all of them.

    OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false taskset -c 1 \
        python -m tests.benchmarks.bench_small_refresh --documents 150000

Generated text, a source of many files. The first refresh reads them all into an empty lineage; in
another lineage each file was a refresh of its own, and one more is measured, warm: in a process
that has refreshed before. Gopher's and C4's rules, personal data and near-duplicates are on.
"""
# ruff: noqa: T201  a script that prints its table

import argparse
import cProfile
import json
import logging
import pstats
import tempfile
import time
from pathlib import Path

import numpy as np

from storage.layout import Layout
from storage.local_objects import LocalObjects
from tasks.curate import CurateConfig
from tasks.curation.c4 import C4Rules
from tasks.curation.config import DomainRules
from tasks.curation.gopher import GopherRules
from tasks.curation.pii import PiiRules
from tasks.evaluations.config import TaskConfig
from tasks.near_duplicates.config import NearDuplicateConfig
from tasks.refresh import refresh
from tasks.refresh_request import ImportedTokenizer, RefreshRequest
from tasks.sources import SourceConfig
from training.tokenizer_training import train_tokenizer

_VOCABULARY = 50_000
_MEASURED = 3
"""Refreshes after the lineage has its parts."""


def main() -> None:
    """Build both lineages and print what the refreshes cost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=20_000, help="of the first refresh")
    parser.add_argument("--words", type=int, default=600, help="of a document")
    parser.add_argument("--parts", type=int, default=100, help="of the lineage")
    parser.add_argument("--task", action="append", default=[], help="KIND:FILE")
    parser.add_argument("--profile", type=int, default=0, help="functions shown of the last one")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        names = _write(home, options.documents, options.words, options.parts)
        request = _request(home, tuple(_task(given) for given in options.task))
        bench = _Bench(home, request)
        bench.offer(names[:1])
        bench.seconds("warm")
        bench.offer(names[: options.parts])
        first = bench.seconds("first")
        times: list[float] = []
        for count in range(1, options.parts + _MEASURED + 1):
            bench.offer(names[:count])
            if count == len(names) and options.profile:
                with cProfile.Profile(time.process_time) as profile:
                    bench.seconds("grown")
                pstats.Stats(profile).sort_stats("cumulative").print_stats(options.profile)
                continue
            times.append(bench.seconds("grown"))
    later = times[options.parts :]
    size = bench.size / 1e6
    print(
        f"\nfirst refresh of {options.documents:,} documents, {size:.0f} MB: {first:.1f} s, "
        f"{size / first:.1f} MB/s; one more of {options.documents // options.parts:,} into "
        f"{options.parts} parts: {', '.join(f'{1000 * taken:.0f}' for taken in later)} ms, "
        f"{100 * min(later) / first:.2f} to {100 * max(later) / first:.2f}%; "
        f"the first ones of that lineage {1000 * min(times[1:10]):.0f} ms and more"
    )


class _Bench:
    """Lineages that read the same folder of files."""

    def __init__(self, home: Path, request: RefreshRequest) -> None:
        self._home, self._request = home, request
        self.size = 0

    def offer(self, names: list[str]) -> None:
        """The source has these files, and no others."""
        folder = self._home / "offered"
        folder.mkdir(exist_ok=True)
        for name in names:
            if not (folder / name).exists():
                (folder / name).hardlink_to(self._home / "made" / name)
        for path in folder.iterdir():
            if path.name not in names:
                path.unlink()
        self.size = max(self.size, sum(path.stat().st_size for path in folder.iterdir()))

    def seconds(self, lineage: str) -> float:
        """Processor seconds of a refresh of ``lineage``."""
        work = self._home / "work"
        work.mkdir(exist_ok=True)
        store = LocalObjects(self._home / "store")
        began = time.process_time()
        done = refresh(store, Layout(lineage), self._request, by="bench", work_dir=work)
        assert done.snapshot is not None, done.reason
        kept = done.train_documents + done.holdout_documents
        assert kept > 0.9 * done.documents_read, done.documents_dropped
        return time.process_time() - began


def _write(home: Path, count: int, num_words: int, parts: int) -> list[str]:
    """Write the files, one a part and those that are measured; returns their names."""
    each = count // parts
    rng = np.random.default_rng(7)
    letters = np.array(list("etaoinshrdlucmfw"))
    words = ["".join(rng.choice(letters, n % 9 + 2)) for n in range(_VOCABULARY)]
    (home / "made").mkdir()
    names = [f"{number:04}.jsonl" for number in range(parts + _MEASURED)]
    for name in names:
        with (home / "made" / name).open("w", encoding="utf-8") as file:
            for _ in range(each):
                # Frequent and rare words, in sentences that Gopher's and C4's rules let through.
                ranks = (rng.random(num_words) ** 4 * _VOCABULARY).astype(int).tolist()
                lines = (ranks[first : first + 12] for first in range(0, num_words, 12))
                told = (" ".join(words[rank] for rank in line) for line in lines)
                text = "".join(
                    f"{words[n % 97]} the {line} of that.\n" for n, line in enumerate(told)
                )
                file.write(json.dumps({"text": text}) + "\n")
    with (home / "made" / names[0]).open(encoding="utf-8") as file:
        sample = [json.loads(line)["text"] for line in file]
    train_tokenizer(sample, home / "tokenizer", vocab_size=8192)
    return names


def _task(given: str) -> TaskConfig:
    kind, _, uri = given.partition(":")
    return TaskConfig(name=Path(uri).stem, uri=uri, kind=kind)  # pyright: ignore[reportArgumentType]  checked by its reader


def _request(home: Path, tasks: tuple[TaskConfig, ...]) -> RefreshRequest:
    rules = DomainRules(gopher=GopherRules(), c4=C4Rules(), pii=PiiRules())
    return RefreshRequest(
        sources=(SourceConfig(name="web", uri=str(home / "offered"), domain="web"),),
        tokenizer=ImportedTokenizer(home / "tokenizer"),
        seq_len=1024,
        curate=CurateConfig(domains={"*": rules}),
        kept_out=tasks,
        near_duplicates=NearDuplicateConfig(),
    )


if __name__ == "__main__":
    main()
