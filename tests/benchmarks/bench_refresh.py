"""Whole refreshes of real text, one core: MB of text a second, with one stage more each time.

    OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false taskset -c 1 \
        python -m tests.benchmarks.bench_refresh web=NEWS.jsonl.gz code=CODE.jsonl.gz \
        --task multiple_choice:ARC_EASY.jsonl

Reads, normalises, deduplicates, encodes, packs and mints into a local store, in turns, after one
round that compiles what is compiled. What a stage costs is the difference to the row above it.
With ``--datatrove-python`` of an environment of its own, datatrove's like pipeline takes its turn
in each round, over a sample of the same texts.
"""
# ruff: noqa: T201  a script that prints its table

import argparse
import gzip
import json
import logging
import random
import statistics
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from storage.layout import Layout
from storage.local_objects import LocalObjects
from tasks.curate import CurateConfig
from tasks.curation.c4 import C4Rules
from tasks.curation.config import DomainRules
from tasks.curation.gopher import GopherRules
from tasks.curation.language import LanguageRules
from tasks.curation.pii import PiiRules
from tasks.evaluations.config import TaskConfig
from tasks.near_duplicates.config import NearDuplicateConfig
from tasks.refresh import refresh
from tasks.refresh_request import ImportedTokenizer, RefreshRequest
from tasks.sources import SourceConfig
from training.tokenizer_training import train_tokenizer

_LAYOUT = Layout("bench")
_VOCABULARY = 32_768
_LANGUAGES = ("en", "de", "fr", "es", "it", "la", "zh", "ja")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", nargs="+", help="DOMAIN=JSONL.gz")
    parser.add_argument("--task", action="append", default=[], help="KIND:FILE")
    parser.add_argument("--megabytes", type=float, default=20.0, help="of each text, at most")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--datatrove-python", help="interpreter that has datatrove and spaCy")
    parser.add_argument("--sample-megabytes", type=float, default=1.5, help="for datatrove")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        sources, texts = _sources(options.text, home, int(options.megabytes * 1e6))
        train_tokenizer(texts, home / "tokenizer", vocab_size=_VOCABULARY)
        size = sum(len(text.encode()) for text in texts) / 1e6
        tasks = tuple(_task(given) for given in options.task)
        sample = _sample(texts, home / "sample.jsonl", options.sample_megabytes)
        peer_rates: list[float] = []
        times: dict[str, list[float]] = {}
        for number in range(options.rounds + 1):
            for place, (name, request) in enumerate(_requests(sources, home, tasks).items()):
                seconds = _seconds(request, home / f"{number}-{place}")
                # The first round compiles and certifies.
                times.setdefault(name, []).extend([seconds] if number else [])
            if number and options.datatrove_python:
                spent = _datatrove_seconds(options.datatrove_python, home, f"datatrove-{number}")
                peer_rates.append(sample / spent)
    print(f"{len(texts):,} documents, {size:.1f} MB\n")
    print("| stages | MB/s of a core | spread | seconds a 100 MB |\n| --- | ---: | --- | ---: |")
    for name, seconds in times.items():
        rates = sorted(size / each for each in seconds)
        spread = f"{rates[0]:.1f} to {rates[-1]:.1f}"
        rate = statistics.median(rates)
        print(f"| {name} | {rate:.1f} | {spread} | {100 / rate:.1f} |")
    if peer_rates:
        *_, whole = times.values()
        ratios = sorted(size / ours / peer for ours, peer in zip(whole, peer_rates, strict=True))
        print(
            f"| datatrove, of {sample:.1f} MB | {statistics.median(peer_rates):.2f} | "
            f"{min(peer_rates):.2f} to {max(peer_rates):.2f} | "
            f"{100 / statistics.median(peer_rates):.0f} |\n\nours with everything is "
            f"{statistics.median(ratios):.0f} times as fast ({ratios[0]:.0f} to {ratios[-1]:.0f})"
        )


def _sources(given: list[str], home: Path, most: int) -> tuple[tuple[SourceConfig, ...], list[str]]:
    """Plain JSONL of at most ``most`` bytes of text each, and the texts."""
    sources: list[SourceConfig] = []
    texts: list[str] = []
    for each in given:
        domain, _, file = each.partition("=")
        path, left = home / f"{domain}.jsonl", most
        with gzip.open(file, "rt", encoding="utf-8") as lines, path.open("w") as out:
            for line in lines:
                text = json.loads(line)["text"]
                left -= len(text.encode())
                if left < 0:
                    break
                texts.append(text)
                out.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
        sources.append(SourceConfig(name=domain, uri=str(path), domain=domain))
    return tuple(sources), texts


def _sample(texts: list[str], path: Path, megabytes: float) -> float:
    """Write texts from everywhere to ``path``; returns their MB."""
    order = random.Random(0).sample(range(len(texts)), len(texts))
    size = 0
    with path.open("w", encoding="utf-8") as out:
        for place in order:
            if size >= megabytes * 1e6:
                break
            size += len(texts[place].encode())
            out.write(json.dumps({"text": texts[place]}) + "\n")
    return size / 1e6


def _datatrove_seconds(python: str, home: Path, name: str) -> float:
    """Processor seconds of the peer over the sample."""
    (home / name).mkdir()
    peer = Path(__file__).with_name("peer_datatrove_refresh.py")
    files = (home / "sample.jsonl", home / "tokenizer" / "tokenizer.json", home / name)
    command = [python, str(peer), *map(str, files)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])["seconds"]


def _task(given: str) -> TaskConfig:
    kind, _, uri = given.partition(":")
    return TaskConfig(name=Path(uri).stem, uri=uri, kind=kind)  # pyright: ignore[reportArgumentType]  checked by its reader


def _requests(
    sources: tuple[SourceConfig, ...], home: Path, tasks: tuple[TaskConfig, ...]
) -> dict[str, RefreshRequest]:
    """Each with one stage more than the one before."""
    found: dict[str, RefreshRequest] = {}
    request = RefreshRequest(
        sources=sources, tokenizer=ImportedTokenizer(home / "tokenizer"), seq_len=1024
    )
    stages: list[tuple[str, dict[str, Any]]] = [
        ("read, normalise, exact duplicates, encode, pack, mint", {}),
        ("and Gopher, C4", {"gopher": GopherRules(), "c4": C4Rules()}),
        ("and language", {"language": LanguageRules(allow=_LANGUAGES, min_probability=0.0)}),
        ("and personal data", {"pii": PiiRules()}),
    ]
    rules: dict[str, Any] = {}
    for name, more in stages:
        rules |= more
        domains = {"*": DomainRules(**rules)} if rules else {}
        request = replace(request, curate=CurateConfig(domains=domains))
        found[name] = request
    if tasks:
        request = replace(request, kept_out=tasks)
        found["and task items"] = request
    request = replace(request, near_duplicates=NearDuplicateConfig())
    found["and near-duplicates"] = request
    return found


def _seconds(request: RefreshRequest, home: Path) -> float:
    """Processor seconds of one refresh into an empty store."""
    work = home.parent / "work"
    work.mkdir(exist_ok=True)
    began = time.process_time()
    done = refresh(LocalObjects(home), _LAYOUT, request, by="bench", work_dir=work)
    assert done.snapshot is not None, done.reason
    return time.process_time() - began


if __name__ == "__main__":
    main()
