"""How fast task items are looked for in training text: tokens to text, text to n-grams.

``python -m tests.benchmarks.bench_trained_on`` makes up 8 million tokens and 10,000 items.
"""

import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tasks.evaluations.frozen import FrozenItem
from tasks.evaluations.trained_on import covered
from training.items.item import Item
from training.tokenizer import Tokenizer
from training.tokenizer_training import train_tokenizer

_ITEMS, _TEXTS = 10_000, 16
_TEXT_WORDS = 300_000


def _items(rng: random.Random, words: list[str]) -> list[FrozenItem]:
    made: list[FrozenItem] = []
    for number in range(_ITEMS):
        text = " ".join(rng.choices(words, k=rng.randrange(8, 60)))
        item = Item(id=f"{number}", cluster=f"{number}", kind="perplexity", choices=(text,))
        made.append(FrozenItem(item=item))
    return made


def _decoded(tokenizer: Tokenizer, streams: list[list[int]]) -> Iterator[str]:
    for stream in streams:
        yield tokenizer.decode(stream)


def main() -> None:
    """Print tokens a second, with the decoding and without it."""
    rng = random.Random(1)
    words = [
        "".join(rng.choices("abcdefghijklmnopqrst", k=rng.randrange(2, 9))) for _ in range(20_000)
    ]
    texts = [" ".join(rng.choices(words, k=_TEXT_WORDS)) for _ in range(_TEXTS)]
    items = {"made up": _items(rng, words)}
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = train_tokenizer(texts[:1], Path(folder), vocab_size=8192)
        streams = [np.asarray(tokens).tolist() for tokens in tokenizer.encode_batch(texts)]
    tokens = sum(map(len, streams))
    began = time.process_time()
    covered(items, [])
    prepared = time.process_time()
    covered(items, texts)
    searched = time.process_time()
    covered(items, _decoded(tokenizer, streams))
    whole = time.process_time()
    ready = prepared - began
    print(f"{_ITEMS:,} items made ready in {ready:.1f} s")  # noqa: T201
    for what, seconds in (
        ("text", searched - prepared - ready),
        ("tokens, decoded and", whole - searched - ready),
    ):
        print(f"{what} searched: {tokens / seconds:,.0f} tokens/s")  # noqa: T201


if __name__ == "__main__":
    main()
