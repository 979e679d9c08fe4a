"""Tokenizers of a test's own, each with the fast path that must give its ids."""

from collections.abc import Callable
from pathlib import Path

from tokenizers import Tokenizer as Encoder

from training.fast_bpe.encoder import FastEncoder

Pairs = list[tuple[Encoder, FastEncoder]]


def pairs_of(save: Callable[[Path, int], Encoder], folder: Path) -> Pairs:
    """Of twelve seeds; ``save(path, seed)`` writes a tokenizer and returns it."""
    paths = [folder / f"{seed}.json" for seed in range(12)]
    slow = [save(path, seed) for seed, path in enumerate(paths)]
    return [(one, FastEncoder(one, path)) for one, path in zip(slow, paths, strict=True)]


def assert_equal_ids(pairs: Pairs, texts: list[str]) -> None:
    """The fast path of every pair gives the ids of its tokenizer, text by text."""
    for slow, fast in pairs:
        tokens, counts = fast.encode(texts, "uint16")
        expected = [encoding.ids for encoding in slow.encode_batch(texts)]
        assert counts.tolist() == [len(ids) for ids in expected]
        assert tokens.tolist() == [token for ids in expected for token in ids]
