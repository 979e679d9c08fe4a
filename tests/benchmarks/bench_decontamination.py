"""Planted leaks of task items in real text: which are found, what else is dropped, how fast.

    python -m tests.benchmarks.bench_decontamination --task multiple_choice:arc_easy.jsonl \
        --text technews.jsonl.gz --text code.jsonl.gz

Items of each task are planted into documents: verbatim, reformatted (upper case, other
punctuation, line breaks), as JSON and HTML escape them, three quarters of an item and a quarter.
What is dropped without a leak in it is looked at besides, as is the rule of one shared 13-gram on
the same text. The search takes turns with the one in Python that came before it
(``item_search_python``), which finds the same.
"""
# ruff: noqa: T201  a script that prints its table

import argparse
import gzip
import html
import json
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from tasks.evaluations.config import TaskConfig
from tasks.evaluations.configured import read_configured
from tasks.evaluations.frozen import FrozenItem
from tasks.evaluations.item_grams import ItemGrams, Place
from tests.benchmarks.item_search_python import PythonSearch

_MIN_SHARE = 0.5
_PLANTED = 100
"""Of each task and each spelling."""
_BATCH_DOCUMENTS = 256


def main() -> None:
    """Plant, search, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", action="append", required=True, help="KIND:FILE")
    parser.add_argument("--text", action="append", required=True, type=Path, help="JSONL.gz")
    parser.add_argument("--documents", type=int, default=4000, help="of each text, at most")
    parser.add_argument("--rounds", type=int, default=5, help="of timing")
    options = parser.parse_args()
    tasks = {Path(given).stem: _items(given) for given in options.task}
    grams = ItemGrams(tasks)
    print(f"{sum(map(len, tasks.values())):,} items, {len(grams.own):,} long enough to be sought")
    for path in options.text:
        _report(path, _texts(path, options.documents), tasks, grams, options.rounds)


def _items(given: str) -> tuple[FrozenItem, ...]:
    kind, _, uri = given.partition(":")
    return read_configured(
        TaskConfig(name="task", uri=uri, kind=kind, max_items=100_000)  # pyright: ignore[reportArgumentType]  checked by its reader
    )


def _texts(path: Path, most: int) -> list[str]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line, _ in zip(lines, range(most), strict=False)]


def _report(
    path: Path,
    texts: list[str],
    tasks: dict[str, tuple[FrozenItem, ...]],
    grams: ItemGrams,
    rounds: int,
) -> None:
    size = sum(len(text.encode()) for text in texts) / 1e6
    rates, ratios, all_shares = _timed(texts, grams, rounds)
    dropped = {
        n
        for n, shares in enumerate(all_shares)
        if any(share >= _MIN_SHARE for share in shares.values())
    }
    any_gram = sum(any(n == 13 for n, _ in _found(grams, text)) for text in texts)
    print(
        f"\n{path.name}: {len(texts):,} documents, {size:.1f} MB; without a planted leak "
        f"{len(dropped)} documents are dropped, by one shared 13-gram {any_gram}\n"
        f"  MB/s of a core: {_told(rates)}; times the search in Python: {_told(ratios)}"
    )
    clean = [text for n, text in enumerate(texts) if n not in dropped]
    for spelling, spell in SPELLINGS.items():
        found, planted = _plant(clean, tasks, grams, spell)
        shown = ", ".join(f"{name} {found[name]}/{planted[name]}" for name in sorted(planted))
        print(f"  {spelling}: {sum(found.values())}/{sum(planted.values())} ({shown})")


def _timed(
    texts: list[str], grams: ItemGrams, rounds: int
) -> tuple[list[float], list[float], list[dict[Place, float]]]:
    """MB/s of each round, how many times as fast as in Python, and what was found."""
    size = sum(len(text.encode()) for text in texts) / 1e6
    in_python = PythonSearch(grams)
    grams.shares_in("compiles")
    found: list[dict[Place, float]] = []
    rates: list[float] = []
    ratios: list[float] = []
    for _ in range(rounds):
        began = time.process_time()
        expected = [in_python.shares_in(text) for text in texts]
        between = time.process_time()
        found = [
            shares
            for first in range(0, len(texts), _BATCH_DOCUMENTS)
            for shares in grams.shares_in_texts(texts[first : first + _BATCH_DOCUMENTS])
        ]
        seconds = time.process_time() - between
        assert found == expected, "the compiled search finds something else than that in Python"
        rates.append(size / seconds)
        ratios.append((between - began) / seconds)
    return rates, ratios, found


def _told(values: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


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


def _by_number(text: str) -> str:
    return "".join(
        one if (one.isascii() and one.isalnum()) or one == " " else f"&#{ord(one)};" for one in text
    )


SPELLINGS: dict[str, Callable[[str], str]] = {
    "verbatim": str,
    "reformatted": _reformatted,
    "JSON": json.dumps,
    "HTML": html.escape,
    "HTML, all but letters and digits by number": _by_number,
    "three quarters": _part(0.75),
    "a quarter": _part(0.25),
}

if __name__ == "__main__":
    main()
