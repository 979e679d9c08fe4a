"""Megabytes per second through the quality rules, and the same decisions: ours and datatrove's.

Documents are pieces of the given corpora, half of them damaged by chance: lines repeated, sentences
cut, bullets, ellipses and symbols strewn in, so that many lie near a threshold. First, for each
rule set alone and all in a row, which documents each side drops: Jaccard index of the two sets,
over all and over those that would be judged otherwise if the thresholds were a tenth stricter or
more lenient. Then both read the same JSONL file and judge it by Gopher's and C4's rules,
interleaved, one process and one thread each; ours also normalises, hashes and looks for duplicates.
Read the ratios.

datatrove needs other versions of some packages than this project: give the interpreter of an
environment of its own.
"""

# ruff: noqa: T201  a script for people

import argparse
import gzip
import json
import os
import platform
import random
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tasks.curate import CurateConfig, apply_rules, curate, none_known
from tasks.curation.c4 import C4Rules
from tasks.curation.config import DomainRules
from tasks.curation.fineweb import FinewebRules
from tasks.curation.gopher import GopherRules
from tasks.curation.normalise import normalise
from tasks.documents import Document
from tasks.ingest import list_source, read_objects
from tasks.sources import SourceConfig

RULES: dict[str, dict[str, Any]] = {
    "gopher": {"gopher": GopherRules()},
    "c4": {"c4": C4Rules()},
    "fineweb": {"fineweb": FinewebRules()},
}
ASKED = ("gopher", "c4", "fineweb", "gopher c4", "gopher c4 fineweb")
NEAR = 0.1
"""Relative distance from a threshold that counts as near."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpora", nargs="+", type=Path, help="JSONL, gzip, with a field text")
    parser.add_argument("--datatrove-python", required=True)
    parser.add_argument("--documents", type=int, default=4000)
    parser.add_argument("--characters", type=int, default=4000, help="of a piece, at most")
    parser.add_argument("--timed", type=int, default=1000, help="documents of the timed rounds")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        texts = _texts(arguments)
        every, few = Path(folder) / "every.jsonl", Path(folder) / "few.jsonl"
        _write(every, texts)
        # Undamaged ones: what is dropped by the first rule costs datatrove little.
        _write(few, texts[: arguments.timed * 2 : 2])
        _compare(every, texts, arguments)
        _time(few, arguments)


def _texts(arguments: argparse.Namespace) -> list[str]:
    """Whole and damaged pieces in turn, evenly from all corpora."""
    rng = random.Random(0)
    share = arguments.documents // (2 * len(arguments.corpora))
    texts: list[str] = []
    for corpus in arguments.corpora:
        pieces = list(_pieces(corpus, arguments.characters, rng, 20 * share))
        for piece in rng.sample(pieces, min(share, len(pieces))):
            damaged = normalise(_damaged(piece, rng))
            # datatrove's reader leaves out what is empty.
            texts += [piece, damaged if damaged.strip() else piece]
    return texts


def _pieces(corpus: Path, characters: int, rng: random.Random, most: int) -> Iterator[str]:
    """Runs of lines up to a random length, as long as pages of the web."""
    given = 0
    with gzip.open(corpus, "rt", encoding="utf-8") as file:
        for line in file:
            text = normalise(json.loads(line)["text"])
            while text:
                length = rng.randint(characters // 8, characters)
                end = text.find("\n", length) + 1 or len(text)
                piece, text = text[: min(end, 4 * characters)], text[min(end, 4 * characters) :]
                if piece.strip():
                    yield piece
                    given += 1
                if given == most:
                    return


def _damaged(text: str, rng: random.Random) -> str:
    """A text with one of several kinds of damage, of random strength."""
    lines = text.split("\n")
    strength = rng.random()
    kind = rng.randrange(7)
    if kind == 0:
        return "\n".join(lines + rng.choices(lines, k=int(strength * len(lines))))
    if kind == 1:
        return "\n".join(line + "..." if rng.random() < strength else line for line in lines)
    if kind == 2:
        return "\n".join("- " + line if rng.random() < strength**0.2 else line for line in lines)
    words = text.split(" ")
    if kind == 3:
        return " ".join(word + " #" if rng.random() < strength / 3 else word for word in words)
    if kind == 4:
        phrase = " ".join(words[: rng.randint(2, 12)])
        return " ".join(
            f"{word} {phrase}" if rng.random() < strength / 20 else word for word in words
        )
    if kind == 5:
        return " ".join(words[: 1 + int(strength * 100)])
    return " ".join("=====" if rng.random() < strength / 2 else word for word in words)


def _write(path: Path, texts: Sequence[str]) -> None:
    rows = (json.dumps({"text": text, "id": str(number)}) for number, text in enumerate(texts))
    path.write_text("".join(row + "\n" for row in rows))


def _config(asked: str, *, leniency: float = 0.0) -> CurateConfig:
    """The rules, all thresholds stricter or more lenient by a share of themselves."""
    sections: dict[str, Any] = {}
    for name in asked.split():
        [(section, rules)] = RULES[name].items()
        sections[section] = _moved(rules, leniency)
    return CurateConfig(min_chars=1, max_chars=10**9, domains={"*": DomainRules(**sections)})


def _moved(rules: Any, leniency: float) -> Any:
    """Thresholds of a rule set moved, those that say what is counted left alone."""
    moved: dict[str, Any] = {}
    for name in rules.__slots__:
        value = getattr(rules, name)
        factor = 1 + leniency if name.startswith("max_") else 1 - leniency
        if name in ("end_marks", "min_words_per_line", "max_word_characters") or isinstance(
            value, bool
        ):
            continue
        if name == "short_line_characters":
            continue
        if isinstance(value, tuple):
            moved[name] = tuple(item * factor for item in value)
        else:
            moved[name] = value * factor
    return replace(rules, **moved) if leniency else rules


def _compare(path: Path, texts: Sequence[str], arguments: argparse.Namespace) -> None:
    documents = [_document(text) for text in texts]
    print(f"{len(texts):,} documents, {sum(map(len, texts)) / 1e6:.1f} M characters\n")
    heads = "rules, dropped by datatrove, by ours, Jaccard, near a threshold, Jaccard near, differ"
    print(f"| {heads.replace(', ', ' | ')} |")
    print("|" + " --- |" * 7)
    with _Peer(arguments.datatrove_python, path) as peer:
        for asked in ASKED:
            theirs = peer.ask(asked)[0]
            ours = apply_rules(documents, _config(asked))[1]
            strict = apply_rules(documents, _config(asked, leniency=-NEAR))[1]
            lenient = apply_rules(documents, _config(asked, leniency=NEAR))[1]
            near = [n for n in range(len(texts)) if bool(strict[n]) != bool(lenient[n])]
            every = list(range(len(texts)))
            dropped = [f"{sum(map(bool, reasons)):,}" for reasons in (theirs, ours)]
            shared = [f"{_jaccard(theirs, ours, among):.4f}" for among in (every, near)]
            otherwise = sum(bool(theirs[n]) != bool(ours[n]) for n in every)
            cells = (asked, *dropped, shared[0], f"{len(near):,}", shared[1], str(otherwise))
            print(f"| {' | '.join(cells)} |")
            differ = Counter(
                (theirs[n], ours[n]) for n in every if bool(theirs[n]) != bool(ours[n])
            )
            for (their_reason, our_reason), count in differ.most_common(5):
                print(f"  - {count} x datatrove {their_reason!r}, ours {our_reason!r}")


def _jaccard(first: Sequence[str], second: Sequence[str], among: Sequence[int]) -> float:
    one = {n for n in among if first[n]}
    other = {n for n in among if second[n]}
    return len(one & other) / len(one | other) if one | other else 1.0


def _time(path: Path, arguments: argparse.Namespace) -> None:
    megabytes = path.stat().st_size / 1e6
    ours: list[tuple[float, float]] = []
    theirs: list[tuple[float, float]] = []
    _read_and_judge(path)
    with _Peer(arguments.datatrove_python, path) as peer:
        peer.ask("gopher c4")
        for _ in range(arguments.rounds):
            theirs.append(peer.ask("gopher c4")[1:])
            ours.append(_read_and_judge(path))
    print(f"\n{megabytes:.2f} MB of JSONL, {arguments.rounds} rounds, {platform.processor()}\n")
    print("| | MB/s wall, median | MB/s of processor time, median | least | most |")
    print("| --- | --- | --- | --- | --- |")
    for name, timed in (("datatrove", theirs), ("ours", ours)):
        wall, cores = (
            [megabytes / seconds for seconds in kind] for kind in zip(*timed, strict=True)
        )
        print(
            f"| {name} | {statistics.median(wall):.2f} | {statistics.median(cores):.2f} | "
            f"{min(cores):.2f} | {max(cores):.2f} |"
        )
    ratios = [their[1] / our[1] for their, our in zip(theirs, ours, strict=True)]
    print(
        f"\nratio of processor time, pair by pair: median {statistics.median(ratios):.1f}, "
        f"least {min(ratios):.1f}, most {max(ratios):.1f}"
    )


def _read_and_judge(path: Path) -> tuple[float, float]:
    started_at, processor = time.perf_counter(), time.process_time()
    source = SourceConfig(name="web", uri=str(path), domain="web", reject_limit=0)
    documents = read_objects(source, list_source(source), _refuse)
    for _ in curate(documents, none_known, _config("gopher c4")):
        pass
    return time.perf_counter() - started_at, time.process_time() - processor


def _refuse(reject: object) -> None:
    raise AssertionError(reject)


def _document(text: str) -> Document:
    return Document(
        id="",
        cluster="",
        text=text,
        source="web",
        uri="",
        position=0,
        domain="web",
        licence="",
        time="",
    )


class _Peer:
    """datatrove in a process of its own."""

    def __init__(self, python: str, path: Path) -> None:
        command = [python, str(Path(__file__).with_name("peer_datatrove.py")), str(path)]
        environment = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", "HOME": str(Path.home())}
        self._process = subprocess.Popen(
            command,
            text=True,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def __enter__(self) -> "_Peer":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def ask(self, asked: str) -> Any:
        """Reasons, wall seconds and processor seconds."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(asked + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("answer "):
                return json.loads(line.removeprefix("answer "))
        raise RuntimeError("datatrove ended without an answer; run peer_datatrove.py by hand")


if __name__ == "__main__":
    main()
