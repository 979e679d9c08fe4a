"""Dated text dealt out as nightly deliveries, for tests/benchmarks/nights.py."""

import gzip
import json
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from tasks.harvest import harvest_part

DOCUMENT_CHARS = 1_200
"""Of a document no more is used, so that a night that two cores can train has as many documents as
its holdout needs."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """Text of one domain and the nights on which it comes."""

    domain: str
    path: Path | None
    """JSONL.gz with ``text``, ``source`` and where known ``date`` or ``year``; None: harvested."""
    first_night: int = 1


def corpus_of(text: str) -> Corpus:
    """``DOMAIN=FILE`` or ``DOMAIN=FILE@NIGHT`` of the command line."""
    domain, _, rest = text.partition("=")
    path, _, night = rest.partition("@")
    if not domain or not path or not (night or "1").isdecimal():
        raise ValueError(f"expected DOMAIN=FILE or DOMAIN=FILE@FIRST_NIGHT, found {text!r}")
    return Corpus(domain, Path(path), int(night or 1))


def deal(corpora: Sequence[Corpus], folder: Path, *, nights: int, chars: int) -> None:
    """Write ``folder/<night>/<domain>.jsonl.gz`` for every night on which a domain has text.

    About ``chars`` characters of each domain a night, whole documents, in order of their dates, so
    that the first night has the oldest. Of a larger corpus documents are left out at even
    distances, so that the last night has the newest; a smaller one gives less every night. Done
    once: a folder that exists is kept.
    """
    if folder.exists():
        return
    for corpus in corpora:
        num_nights = nights - corpus.first_night + 1
        for number, documents in enumerate(_portions(corpus, num_nights, chars)):
            night = folder.with_suffix(".unfinished") / f"{corpus.first_night + number:02d}"
            write_documents(night / f"{corpus.domain}.jsonl.gz", documents)
    folder.with_suffix(".unfinished").rename(folder)


def _portions(corpus: Corpus, nights: int, chars: int) -> Iterable[list[dict[str, Any]]]:
    """The documents of each of ``nights`` nights."""
    if corpus.path is None:
        return _harvested(corpus.domain, nights, chars)
    documents = read_documents(corpus.path)
    documents.sort(key=lambda row: (row["date"], row["id"]))
    portions: list[list[dict[str, Any]]] = [[] for _ in range(nights)]
    for place, row in thinned(documents, nights * chars):
        portions[min(nights - 1, int(place * nights))].append(row)
    return portions


def _harvested(domain: str, nights: int, chars: int) -> Iterable[list[dict[str, Any]]]:
    """Parts of what every installation has (``tasks.harvest``), as long as there are any."""
    with tempfile.TemporaryDirectory() as scratch:
        for part in range(1, nights + 1):
            path = harvest_part(domain, part, Path(scratch), part_chars=chars)
            if path is None:
                return
            with gzip.open(path, "rt", encoding="utf-8") as lines:
                rows = [json.loads(line) for line in lines]
            yield [
                {**row, "text": row["text"][:DOCUMENT_CHARS], "cluster": row["module"], "date": ""}
                for row in rows
            ]


def read_documents(path: Path) -> list[dict[str, Any]]:
    """The documents of a corpus, in the order of the file."""
    documents: list[dict[str, Any]] = []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            documents.append(
                {
                    "id": row["source"],
                    "text": row["text"][:DOCUMENT_CHARS],
                    # repository@commit:path#piece: the pieces of one file belong together.
                    "cluster": row["source"].rpartition("#")[0] or row["source"],
                    "date": str(row.get("date") or row.get("year") or "9999"),
                }
            )
    return documents


def thinned(documents: Sequence[dict[str, Any]], chars: int) -> list[tuple[float, dict[str, Any]]]:
    """About ``chars`` characters of whole documents at even distances, with where each lies in
    the whole, from 0 to 1."""
    total = sum(len(row["text"]) for row in documents)
    share = min(1.0, chars / total)
    found: list[tuple[float, dict[str, Any]]] = []
    seen = kept = 0
    for row in documents:
        if kept <= share * seen:
            found.append((seen / total, row))
            kept += len(row["text"])
        seen += len(row["text"])
    return found


def split_base(paths: Sequence[Path], folder: Path, *, chars: int, reference_share: float) -> None:
    """Write ``folder/base`` and ``folder/reference``: text of a base model and text like it.

    That share of the clusters goes to the reference, which the base never sees.

    Args:
        paths: Corpora, of which all have as much text in the base.
        folder: Is made, unless it exists.
        chars: Of the base, about; of the reference an eighth as many.
        reference_share: Of the clusters, from 0 to 1.
    """
    if folder.exists():
        return
    for path in paths:
        documents = read_documents(path)
        names = list(dict.fromkeys(row["cluster"] for row in documents))
        # Every so many, as far as possible: neighbours in a corpus are alike.
        chosen = {
            name
            for i, name in enumerate(names)
            if int((i + 1) * reference_share) > int(i * reference_share)
        }
        for side, is_reference, size in (("base", False, chars), ("reference", True, chars // 8)):
            rows = [row for row in documents if (row["cluster"] in chosen) is is_reference]
            target = folder.with_suffix(".unfinished") / side
            name = path.name.removesuffix(".jsonl.gz")
            kept = (row for _, row in thinned(rows, size // len(paths)))
            write_documents(target / name / "all.jsonl.gz", kept)
    folder.with_suffix(".unfinished").rename(folder)


def write_documents(path: Path, documents: Iterable[dict[str, Any]]) -> None:
    """JSONL.gz, the same bytes for the same documents; nothing when there is none."""
    rows = iter(documents)
    first = list(islice(rows, 1))
    if not first:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0) as out:
        for row in (*first, *rows):
            out.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
