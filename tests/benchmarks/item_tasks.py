"""Items for ``bench_items``: made up, or of files of well-known tasks."""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.items.item import Item, Kind
from training.items.windows import continuations_of

_SHOTS = 5


@dataclass(frozen=True, slots=True)
class Task:
    """Items of one kind, and what lm-evaluation-harness is asked for them."""

    name: str
    target: float | None
    """How many times faster we want to be."""
    items: list[Item]

    @property
    def function(self) -> str:
        """Of the peer's model."""
        kinds = {"perplexity": "loglikelihood_rolling", "generation": "generate_until"}
        return kinds.get(self.items[0].kind, "loglikelihood")

    @property
    def requests(self) -> list[list[Any]]:
        """Arguments of each of the peer's requests."""
        if self.function == "loglikelihood_rolling":
            return [[item.choices[0]] for item in self.items]
        if self.function == "generate_until":
            return [[item.context, _until(item)] for item in self.items]
        return [[c.context, c.text] for item in self.items for c in continuations_of(item)]


def _until(item: Item) -> dict[str, Any]:
    return {
        "until": list(item.stop),
        "max_gen_toks": item.max_new_tokens,
        "do_sample": False,
        "temperature": 0.0,
    }


def made_tasks(scale: float) -> list[Task]:
    """Of words of made-up letters, as long as the texts of well-known tasks."""
    source = random.Random(0)
    words = ["".join(source.choices("etaoinshrdlucm", k=source.randint(2, 8))) for _ in range(9000)]

    def text(least: int, most: int) -> str:
        return " ".join(source.choices(words, k=source.randint(least, most)))

    def choices(least: int, most: int) -> list[str]:
        return [text(least, most) for _ in range(4)]

    return _tasks(
        scale,
        passages=((text(250, 350), choices(10, 20)) for _ in iter(int, 1)),
        short=((text(25, 45), choices(10, 20)) for _ in iter(int, 1)),
        letters=((text(30, 60), ["A", "B", "C", "D"]) for _ in iter(int, 1)),
        cloze=((text(50, 70), text(1, 1)) for _ in iter(int, 1)),
        pairs=((text(4, 5), text(3, 5), text(3, 5)) for _ in iter(int, 1)),
        documents=(text(600, 2500) for _ in iter(int, 1)),
    )


def tasks_of_files(folder: Path, scale: float) -> list[Task]:
    """Of hellaswag, commonsense_qa, lambada, BLiMP and wikitext, in the order of the files."""
    hellaswag = _rows(folder / "hellaswag_val1k.jsonl")
    lambada = _rows(folder / "lambada_openai.jsonl")
    questions = _rows(folder / "commonsense_qa.jsonl")
    pairs = _rows(folder / "blimp_mini.jsonl")
    source = random.Random(0)

    def with_examples(row: dict[str, Any]) -> str:
        solved = [
            f"{one['query']} {one['choices'][one['gold']]}"
            for one in source.sample(hellaswag, _SHOTS)
        ]
        return "\n\n".join([*solved, row["query"]])

    return _tasks(
        scale,
        passages=((with_examples(row), row["choices"]) for row in hellaswag),
        short=((row["query"], row["choices"]) for row in hellaswag),
        letters=((row["query"], row["choices"]) for row in questions),
        cloze=((row["context"], row["continuation"]) for row in lambada),
        pairs=(("", row["sentence_good"], row["sentence_bad"]) for row in pairs),
        documents=(row["text"] for row in _rows(folder / "wikitext2_test.jsonl")),
    )


def _tasks(
    scale: float,
    *,
    passages: Iterator[tuple[str, list[str]]],
    short: Iterator[tuple[str, list[str]]],
    letters: Iterator[tuple[str, list[str]]],
    cloze: Iterator[tuple[str, str]],
    pairs: Iterator[tuple[str, str, str]],
    documents: Iterator[str],
) -> list[Task]:
    """Numbers of items that a processor scores in seconds, times ``scale``."""

    def items(number: int, kind: Kind, of: Iterator[dict[str, Any]]) -> list[Item]:
        count = max(1, round(number * scale))
        rows: list[dict[str, Any]] = [
            {"id": str(at), "cluster": str(at), "kind": kind, "delimiter": " "} | next(of)
            for at in range(count)
        ]
        return [Item(**row) for row in rows]

    def chosen(rows: Iterator[tuple[str, list[str]]]) -> Iterator[dict[str, Any]]:
        return ({"context": text, "choices": tuple(choices)} for text, choices in rows)

    opened = [next(cloze) for _ in range(max(2, round(60 * scale)))]
    clozes = ({"context": text, "choices": (word,)} for text, word in opened)
    prompts = ({"context": text, "choices": (word,), "max_new_tokens": 32} for text, word in opened)
    sentences = (
        {"choices": (f"{start} {good}".strip(), f"{start} {bad}".strip())}
        for start, good, bad in pairs
    )
    texts = ({"choices": (text,), "delimiter": ""} for text in documents)
    return [
        Task("choices, long context", 5.0, items(4, "multiple_choice", chosen(passages))),
        Task("choices, short context", 5.0, items(20, "multiple_choice", chosen(short))),
        Task("choices of one token", 2.0, items(40, "multiple_choice", chosen(letters))),
        Task("cloze", 2.0, items(50, "cloze", clozes)),
        Task("minimal pairs", 2.0, items(160, "minimal_pair", sentences)),
        Task("perplexity", 2.0, items(2, "perplexity", texts)),
        Task("generation", None, items(12, "generation", prompts)),
    ]


def _rows(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
