"""A tokenizer.json as arrays for the kernel."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from training.fast_bpe import kernel, merge
from training.fast_bpe.seams import neighbours_of
from training.fast_bpe.whole_characters import whole_characters

SHORT_PIECES = 1 << 17
LONG_PIECES = 1 << 17
"""Pieces that are kept: 4 MiB and 8 MiB."""


def tables_of(model: dict[str, Any]) -> kernel.Tables:
    """Arrays of the BPE ``model`` of a tokenizer.json that ``support.why_slow`` lets through.

    Raises:
        ValueError: A byte is no token, or a merge makes none.
    """
    vocab: dict[str, int] = model["vocab"]
    spelled = byte_spellings()
    missing = [byte for byte, character in enumerate(spelled) if character not in vocab]
    if missing:
        raise ValueError(f"expected a token for every byte, found none for byte {missing[0]:#x}")
    byte_tokens = np.array([vocab[character] for character in spelled], np.uint32)
    data = bytes_of_tokens(vocab)
    pairs, merged = _merges(vocab, model["merges"])
    ranks = dict(zip((tuple(pair) for pair in pairs.tolist()), range(len(pairs)), strict=True))
    return kernel.Tables(
        byte_tokens=byte_tokens,
        whole_characters=whole_characters(byte_tokens, pairs, merged, data),
        merged=merged,
        pairs=_hashed(ranks),
        # What is not spelled by bytes is made of no text.
        neighbours=neighbours_of(data[token] for token in set(merged.tolist()) if token in data),
        short_pieces=_aligned(4 * SHORT_PIECES),
        long_pieces=_aligned(8 * LONG_PIECES),
    )


def byte_spellings() -> list[str]:
    """The character that stands for each byte in the vocabulary: itself if it can be seen.

    The others, in order, are those from U+0100 on (Radford et al. 2019, GPT-2).
    """
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in seen]
    stands_for = {byte: chr(byte) for byte in seen}
    stands_for |= {byte: chr(0x100 + place) for place, byte in enumerate(others)}
    return [stands_for[byte] for byte in range(256)]


def bytes_of_tokens(vocab: dict[str, int]) -> dict[int, bytes]:
    """What each token stands for; without those that are not spelled by bytes, as special ones."""
    spelled = byte_spellings()
    byte_of, every = {ord(character): byte for byte, character in enumerate(spelled)}, set(spelled)
    return {
        vocab[token]: token.translate(byte_of).encode("latin-1")
        for token in vocab
        if every.issuperset(token)
    }


def spelled_texts(vocab: dict[str, int]) -> dict[str, int]:
    """The tokens that are whole characters, by the text that each stands for; by id."""
    texts: dict[str, int] = {}
    for token, data in sorted(bytes_of_tokens(vocab).items()):
        text = data.decode("utf-8", "ignore")
        if text and text.encode() == data:
            texts[text] = token
    return texts


def _merges(vocab: dict[str, int], merges: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of each merge, ``uint32[merges, 2]``, and the token that it makes, by rank."""
    spelled = [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in merges]
    for first, second in spelled:
        if first not in vocab or second not in vocab or first + second not in vocab:
            raise ValueError(f"the merge of {first!r} and {second!r} makes no token")
    pairs = [(vocab[first], vocab[second]) for first, second in spelled]
    merged = [vocab[first + second] for first, second in spelled]
    return np.array(pairs, np.uint32).reshape(-1, 2), np.array(merged, np.uint32)


def _hashed(ranks: dict[tuple[int, int], int]) -> np.ndarray:
    """See ``kernel.Tables.pairs``; at most half full."""
    keys = np.array(list(ranks), np.uint64).reshape(-1, 2)
    values = np.array(list(ranks.values()), np.uint64)
    table = np.full(1 << max(2 * len(ranks), 2).bit_length(), merge.EMPTY, np.uint64)
    merge.fill_pairs(table, keys, values)
    return table


def _aligned(size: int) -> np.ndarray:
    """``uint64[size]`` of zeros that begins where a line of the processor's caches does."""
    words = np.zeros(size + 8, np.uint64)
    first = -words.ctypes.data % 64 // 8
    return words[first : first + size]
