"""What a refresh left as lines of JSON: rejects, task items that leaked, dropped texts."""

import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zstandard

from storage.errors import CorruptError
from tasks.reporting.refresh_facts import Place

_MOST = 5
"""Places or examples shown a reason, or a task."""


@dataclass(slots=True)
class Rejected:
    """What gave no document, for one reason."""

    lines: int = 0
    """Lines, rows or files."""
    places: list[tuple[str, int, str]] = field(default_factory=list[tuple[str, int, str]])
    """The first few: file, line or row (0 for a whole file), detail."""


@dataclass(slots=True)
class Leaked:
    """What one set of task items has cost."""

    items: Counter[str] = field(default_factory=Counter[str])
    """Documents by the item that they give away."""
    documents: set[str] = field(default_factory=set[str])
    examples: list[tuple[str, str, float]] = field(default_factory=list[tuple[str, str, float]])
    """The first few: document, item, share of the item."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Excerpt:
    """The beginning of a text that was dropped."""

    place: Place
    text: str


def read_rejects(path: Path) -> dict[str, Rejected]:
    """The quarantine by reason, in alphabetical order."""
    found: dict[str, Rejected] = {}
    with (
        path.open("rb") as file,
        zstandard.ZstdDecompressor().stream_reader(file) as stream,
        io.TextIOWrapper(stream, encoding="utf-8") as lines,
    ):
        for row in _rows(lines, path.name):
            rejected = found.setdefault(row["reason"], Rejected())
            rejected.lines += 1
            if len(rejected.places) < _MOST:
                rejected.places.append((row["uri"], row["position"], row["detail"]))
    return dict(sorted(found.items()))


def read_leaks(path: Path) -> dict[str, Leaked]:
    """The leaks by task, in alphabetical order."""
    found: dict[str, Leaked] = {}
    with path.open(encoding="utf-8") as lines:
        for row in _rows(lines, path.name):
            leaked = found.setdefault(row["task"], Leaked())
            leaked.items[row["item"]] += 1
            leaked.documents.add(row["document"])
            if len(leaked.examples) < _MOST:
                leaked.examples.append((row["document"], row["item"], row["share"]))
    return dict(sorted(found.items()))


def read_excerpts(path: Path) -> dict[str, list[Excerpt]]:
    """The first few texts by the reason why they were dropped."""
    found: dict[str, list[Excerpt]] = {}
    with path.open(encoding="utf-8") as lines:
        for row in _rows(lines, path.name):
            excerpts = found.setdefault(row["reason"], [])
            if len(excerpts) < _MOST:
                place = Place(
                    document=row["document"],
                    uri=row["uri"],
                    position=row["position"],
                    domain=row["domain"],
                )
                excerpts.append(Excerpt(place=place, text=row["excerpt"]))
    return found


def _rows(lines: Iterable[str], name: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, 1):
        try:
            yield json.loads(line)
        except json.JSONDecodeError as error:
            raise CorruptError(
                f"line {number} of {name} is no JSON ({error}); restore the snapshot from a copy"
            ) from error
