"""Planted leaks of task items in real text: which are found, what else is dropped, how fast.

    python -m tests.benchmarks.bench_decontamination --task multiple_choice:arc_easy.jsonl \
        --text technews.jsonl.gz --text code.jsonl.gz

Items of each task are planted into documents: verbatim, reformatted (upper case, other
punctuation, line breaks), three quarters of an item and a quarter. What is dropped without a leak
in it is looked at besides, as is the rule of one shared 13-gram on the same text.
"""
# ruff: noqa: T201  a script that prints its table

import argparse
import gzip
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from tasks.evaluations.config import TaskConfig
from tasks.evaluations.configured import read_configured
from tasks.evaluations.frozen import FrozenItem
from tasks.evaluations.item_grams import ItemGrams

_MIN_SHARE = 0.5
_PLANTED = 100
"""Of each task and each spelling."""


def main() -> None:
    """Plant, search, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", action="append", required=True, help="KIND:FILE")
    parser.add_argument("--text", action="append", required=True, type=Path, help="JSONL.gz")
    parser.add_argument("--documents", type=int, default=4000, help="of each text, at most")
    options = parser.parse_args()
    tasks = {Path(given).stem: _items(given) for given in options.task}
    grams = ItemGrams(tasks)
    print(f"{sum(map(len, tasks.values())):,} items, {len(grams.own):,} long enough to be sought")
    for path in options.text:
        _report(path, _texts(path, options.documents), tasks, grams)


def _items(given: str) -> tuple[FrozenItem, ...]:
    kind, _, uri = given.partition(":")
    return read_configured(
        TaskConfig(name="task", uri=uri, kind=kind, max_items=100_000)  # pyright: ignore[reportArgumentType]  checked by its reader
    )


def _texts(path: Path, most: int) -> list[str]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line, _ in zip(lines, range(most), strict=False)]


def _report(
    path: Path, texts: list[str], tasks: dict[str, tuple[FrozenItem, ...]], grams: ItemGrams
) -> None:
    size = sum(len(text.encode()) for text in texts)
    began = time.process_time()
    dropped = {n for n, text in enumerate(texts) if _is_leak(grams, text)}
    seconds = time.process_time() - began
    any_gram = sum(any(n == 13 for n, _ in _found(grams, text)) for text in texts)
    print(
        f"\n{path.name}: {len(texts):,} documents, {size / 1e6:.1f} MB, "
        f"{size / 1e6 / seconds:.1f} MB/s of a core; without a planted leak {len(dropped)} "
        f"documents are dropped, by one shared 13-gram {any_gram}"
    )
    clean = [text for n, text in enumerate(texts) if n not in dropped]
    for spelling, spell in SPELLINGS.items():
        found, planted = _plant(clean, tasks, grams, spell)
        shown = ", ".join(f"{name} {found[name]}/{planted[name]}" for name in sorted(planted))
        print(f"  {spelling}: {sum(found.values())}/{sum(planted.values())} ({shown})")


def _found(grams: ItemGrams, text: str) -> list[tuple[int, int]]:
    return [(n, len(hashes)) for n, hashes in grams.found_in(text) if len(hashes)]


def _is_leak(grams: ItemGrams, text: str) -> bool:
    return any(share >= _MIN_SHARE for share in grams.shares_in(text).values())


def _plant(
    clean: Sequence[str],
    tasks: dict[str, tuple[FrozenItem, ...]],
    grams: ItemGrams,
    spell: Callable[[str], str],
) -> tuple[Counter[str], Counter[str]]:
    rng = random.Random(0)
    found: Counter[str] = Counter()
    planted: Counter[str] = Counter()
    for name, items in tasks.items():
        able = [item for item in items if (name, item.item.id) in grams.own]
        for item in rng.sample(able, min(_PLANTED, len(able))):
            text = rng.choice(clean)
            place = text.find("\n", rng.randrange(len(text))) % len(text)
            leaked = f"{text[:place]}\n{spell(item.text)}\n{text[place:]}"
            planted[name] += 1
            found[name] += _is_leak(grams, leaked)
    return found, planted


def _reformatted(text: str) -> str:
    return text.upper().replace(". ", "...\n\n").replace(", ", " -- ").replace(" ", "  ")


def _part(share: float) -> Callable[[str], str]:
    def cut(text: str) -> str:
        words = text.split()
        return " ".join(words[: round(share * len(words))])

    return cut


SPELLINGS: dict[str, Callable[[str], str]] = {
    "verbatim": str,
    "reformatted": _reformatted,
    "three quarters": _part(0.75),
    "a quarter": _part(0.25),
}

if __name__ == "__main__":
    main()
