"""Languages, personal data and code on real text: how often right, how often wrong, how fast.

Languages: pieces of several lengths, cut at random places of texts whose language is known.
Personal data: recall on planted items; on the given texts what is found a megabyte, with examples,
because only a person can say which of them are real. Code: what is dropped of text that persons
wrote (cut, so its syntax is not looked at). Annotations for later selection: how fast; of
perplexity that of random models, on texts of up to 4,000 characters.
"""

# ruff: noqa: T201  a script for people

import argparse
import gzip
import json
import random
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

from tasks.curation.alignment import align
from tasks.curation.annotate import annotate, judge
from tasks.curation.code import CodeRules
from tasks.curation.config import DomainRules
from tasks.curation.importance import log_ratios, log_weights
from tasks.curation.language import identify
from tasks.curation.normalise import mend, normalise
from tasks.curation.pii_search import KINDS, find_pii
from tasks.curation.quality import score_quality, train_quality
from tasks.curation.text_statistics import count_statistics
from tasks.documents import printable
from tests.tasks.curation.planted_pii import plant
from training.beginnings import beginnings_of, nats_of_beginnings
from training.config import ModelConfig
from training.decoder.model import Decoder
from training.tokenizer_training import train_tokenizer

LENGTHS = (30, 100, 300, 1000, 4000)
PIECES = 400
MODELS = [
    ModelConfig(
        vocab_size=8192,
        hidden_size=width,
        num_layers=layers,
        num_heads=width // 64,
        num_kv_heads=width // 64,
        intermediate_size=width * 11 // 4,
        max_position_embeddings=512,
    )
    for width, layers in ((128, 4), (256, 6), (640, 10))
]
PLANTED = 10_000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("texts", nargs="+", help="LANGUAGE=FILE or code=FILE; JSONL, gzip")
    parser.add_argument("--megabytes", type=float, default=4.0, help="of each file")
    parser.add_argument("--examples", type=int, default=3)
    arguments = parser.parse_args()
    files = [item.partition("=")[::2] for item in arguments.texts]
    texts = {
        (language, Path(file).name): _read(Path(file), arguments.megabytes)
        for language, file in files
    }
    _languages({key: found for key, found in texts.items() if key[0] != "code"})
    _planted()
    _personal_data(texts, arguments.examples)
    _selection([text for inside in texts.values() for text in inside])
    _perplexity([text[:4000] for inside in texts.values() for text in inside])
    _encodings(texts)
    _code({key: found for key, found in texts.items() if key[0] == "code"})


def _read(path: Path, megabytes: float) -> list[str]:
    """Texts from all over the file, cut at 100,000 characters."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        texts = [normalise(json.loads(line)["text"]) for line in file]
    rng = random.Random(0)
    rng.shuffle(texts)
    taken: list[str] = []
    left = megabytes * 1e6
    for text in texts:
        start = rng.randrange(max(1, len(text) - 100_000))
        taken.append(text[start : start + 100_000])
        left -= len(taken[-1].encode())
        if left < 0:
            break
    return taken


def _languages(texts: dict[tuple[str, str], list[str]]) -> None:
    print("| characters | right | texts/s of a core |\n| --- | --- | --- |")
    rng = random.Random(0)
    wrong: Counter[tuple[str, str]] = Counter()
    identify(["first"])
    for length in LENGTHS:
        right, seconds, asked = 0, 0.0, 0
        for (language, name), inside in texts.items():
            pieces = [_piece(rng.choice(inside), length, rng) for _ in range(PIECES)]
            started_at = time.process_time()
            found = identify(pieces)["language"].tolist()
            seconds += time.process_time() - started_at
            asked += len(pieces)
            right += found.count(language)
            wrong[name, str(length)] += len(pieces) - found.count(language)
        print(f"| {length} | {right / asked:.3f} | {asked / seconds:,.0f} |")
    print("\nmost often wrong:", wrong.most_common(5), "\n")


def _selection(texts: list[str]) -> None:
    """How fast the numbers for later selection are found; the first texts are their targets."""
    targets = texts[:200]
    model = train_quality(targets[:100], targets[100:])
    ratios = log_ratios(targets[:100], targets[100:])
    few = texts[: max(1, len(texts) // 50)]
    print("| annotation | MB/s of a core |\n| --- | --- |")
    for name, score, over in (
        ("quality", lambda some: score_quality(some, model), texts),
        ("statistics", count_statistics, texts),
        ("importance", lambda some: log_weights(some, ratios), texts),
        ("alignment, 16 texts", lambda some: align(some, [t[:4000] for t in targets[:16]]), few),
    ):
        score(over[:1])
        started_at = time.process_time()
        for start in range(0, len(over), 100):
            score(over[start : start + 100])
        seconds = time.process_time() - started_at
        print(f"| {name} | {sum(len(text.encode()) for text in over) / 1e6 / seconds:.1f} |")


def _perplexity(texts: list[str]) -> None:
    """How fast the beginnings of documents are scored, by size of the model and tokens."""
    print("| parameters | tokens | documents/s of a core | MB/s read | MB/s of the documents |")
    print("| --- | --- | --- | --- | --- |")
    texts = random.Random(0).sample(texts, min(len(texts), 2000))
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = train_tokenizer(texts, Path(folder), vocab_size=MODELS[0].vocab_size)
        for config in MODELS:
            model = Decoder(config).eval()
            size = sum(weight.numel() for weight in model.parameters())
            for tokens in (128, 256, 512):
                few = texts[: max(4, int(4e11 / (size * tokens)))]
                started_at = time.process_time()
                read = beginnings_of(tokenizer, few, most_tokens=tokens)
                nats_of_beginnings(model, read, start_id=tokenizer.start_id, num_threads=1)
                seconds = time.process_time() - started_at
                rates = [
                    len(few) / seconds,
                    sum(each.text_bytes for each in read) / 1e6 / seconds,
                    sum(len(text.encode()) for text in few) / 1e6 / seconds,
                ]
                told = " | ".join(f"{rate:.3g}" for rate in rates)
                print(f"| {size / 1e6:.1f} million | {tokens} | {told} |")


def _piece(text: str, length: int, rng: random.Random) -> str:
    start = rng.randrange(max(1, len(text) - length))
    return text[start : start + length]


def _planted() -> None:
    print("| planted | found |\n| --- | --- |")
    for kind in KINDS:
        rng = random.Random(1)
        planted = [plant(kind, rng) for _ in range(PLANTED)]
        found = sum(_covers(text, item) for item, text in planted)
        print(f"| {kind} | {found / PLANTED:.4f} |")


def _covers(text: str, item: str) -> bool:
    """Whether nothing of the item but its marks is outside of what was found."""
    place = text.index(item)
    return any(
        start <= place + 1 and end >= place + len(item) - 1 for start, end, _ in find_pii(text)
    )


def _personal_data(texts: dict[tuple[str, str], list[str]], examples: int) -> None:
    print(f"\n| text | MB/s of a core | {' | '.join(KINDS)} (a MB) |")
    print("| --- | --- |" + " --- |" * len(KINDS))
    shown: dict[str, list[str]] = defaultdict(list)
    for (_, name), inside in texts.items():
        megabytes = sum(len(text.encode()) for text in inside) / 1e6
        started_at = time.process_time()
        found = [(text, span) for text in inside for span in find_pii(text)]
        speed = megabytes / (time.process_time() - started_at)
        counts = Counter(kind for _, (_, _, kind) in found)
        cells = " | ".join(f"{counts[kind] / megabytes:.2f}" for kind in KINDS)
        print(f"| {name} | {speed:.1f} | {cells} |")
        for kind in KINDS:
            of_kind = [item for item in found if item[1][2] == kind]
            for text, (start, end, _) in random.Random(0).sample(
                of_kind, min(examples, len(of_kind))
            ):
                around = (
                    f"{text[max(0, start - 12) : start]}>>{text[start:end]}<<{text[end : end + 6]}"
                )
                shown[f"{name} {kind}"].append(printable(around, 80))
    for what, items in shown.items():
        print(f"  {what}: {items}")


def _encodings(texts: dict[tuple[str, str], list[str]]) -> None:
    print("\n| text | lines changed by mending | MB/s of a core |\n| --- | --- | --- |")
    for (_, name), inside in texts.items():
        started_at = time.process_time()
        pairs = [(text, mend(text)) for text in inside]
        speed = (
            sum(len(text.encode()) for text in inside) / 1e6 / (time.process_time() - started_at)
        )
        lines = [
            (before, after)
            for one, other in pairs
            for before, after in zip(one.split("\n"), other.split("\n"), strict=False)
            if before != after
        ]
        told = [f"{printable(a, 30)} -> {printable(b, 30)}" for a, b in lines[:2]]
        print(f"| {name} | {len(lines)} {told or ''} | {speed:.1f} |")


def _code(texts: dict[tuple[str, str], list[str]]) -> None:
    rules = DomainRules(code=CodeRules())
    for (_, name), inside in texts.items():
        started_at = time.process_time()
        numbers = annotate(inside, ["a.txt"] * len(inside), rules).numbers
        seconds = time.process_time() - started_at
        reasons = Counter(judge(numbers, ["code"] * len(inside), {"code": rules}))
        megabytes = sum(len(text.encode()) for text in inside) / 1e6
        print(f"\n{name}: {dict(reasons)}, {megabytes / seconds:.1f} MB/s of a core")


if __name__ == "__main__":
    main()
