"""Texts to token ids by the kernel, with the ids that ``tokenizers`` gives."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer as Encoder

from training.fast_bpe.characters import kinds_of_code_points
from training.fast_bpe.cut import GPT2_DIGITS, MARGIN, SEPARATOR, UNSTABLE, cut, find_kinds
from training.fast_bpe.kernel import encode
from training.fast_bpe.seams import may_have_seams, narrow
from training.fast_bpe.support import added_texts, normalises, pattern_of, why_slow
from training.fast_bpe.tables import spelled_texts, tables_of

_SEPARATOR = bytes([SEPARATOR])
_MARGIN = _SEPARATOR * MARGIN
_BYTES_AT_ONCE = 1 << 18
"""Texts go to the kernel in lots of about so many bytes, which the processor's cache holds."""


class NoFastPathError(ValueError):
    """The kernel does not do what this tokenizer does."""


class _Room(NamedTuple):
    """What the kernel writes into; kept from one lot of texts to the next."""

    kinds: np.ndarray
    candidates: np.ndarray
    pieces: np.ndarray
    tokens: np.ndarray

    @classmethod
    def of(cls, size: int) -> "_Room":
        """Room for ``size`` bytes of text."""
        dtypes = (np.uint8, np.int64, np.int64, np.uint32)
        return cls(*(np.empty(size, dtype) for dtype in dtypes))


class FastEncoder:
    """Encodes texts as ``encoder`` does; for one thread at a time.

    Args:
        encoder: Opened so that special tokens are ordinary text, nothing is cut or padded.
        path: The tokenizer.json that it was read from.

    Raises:
        NoFastPathError: With the reason.
    """

    def __init__(self, encoder: Encoder, path: Path) -> None:
        spec = json.loads(path.read_text("utf-8"))
        reason = why_slow(spec)
        if reason:
            raise NoFastPathError(reason)
        pattern = pattern_of(spec)
        assert pattern is not None, "why_slow has said that there is one"
        self._encoder, self._pattern = encoder, pattern
        self._normalises, self._added = normalises(spec), added_texts(spec)
        try:
            self._tables = tables_of(spec["model"])
        except ValueError as error:
            raise NoFastPathError(str(error)) from error
        self._kinds = kinds_of_code_points(
            split_digits=pattern == GPT2_DIGITS, normalise=self._normalises
        )
        self._room = _Room.of(0)
        if spec["model"].get("ignore_merges"):
            self._refuse_unmerged(spec["model"]["vocab"])

    def encode(self, texts: Sequence[str], dtype: str) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of all ``texts``, one after the other, and how many each text has.

        Returns:
            ``dtype[tokens]`` and ``int64[texts]``.

        Raises:
            UnicodeEncodeError: A text holds half a surrogate pair.
        """
        lots = [self._encode_lot(lot, dtype) for lot in _lots(texts)]
        tokens = [np.empty(0, dtype), *(tokens for tokens, _ in lots)]
        counts = [np.empty(0, np.int64), *(counts for _, counts in lots)]
        return np.concatenate(tokens), np.concatenate(counts)

    def _encode_lot(self, texts: list[str], dtype: str) -> tuple[np.ndarray, np.ndarray]:
        tokens, counts = self._run(texts, dtype)
        whole = self._normalised(texts) if self._normalises else texts
        if whole is not texts:
            tokens, counts = self._run(whole, dtype)
        slow = [
            place
            for place, text in enumerate(texts)
            if any(added in text or added in whole[place] for added in self._added)
        ]
        if not slow:
            return tokens, counts
        pieces = np.split(tokens, np.cumsum(counts)[:-1])
        for place in slow:
            pieces[place] = np.array(self._slow(texts[place]), dtype)
        return np.concatenate(pieces), np.array([len(piece) for piece in pieces], np.int64)

    def _slow(self, text: str) -> list[int]:
        return self._encoder.encode(text, add_special_tokens=False).ids

    def _run(self, texts: list[str], dtype: str) -> tuple[np.ndarray, np.ndarray]:
        """Tokens, and how many each text has."""
        data = b"".join([_MARGIN, *(text.encode() + _SEPARATOR for text in texts), _MARGIN])
        text = np.frombuffer(data, np.uint8)
        if len(self._room.kinds) < len(text):
            self._room = _Room.of(len(text))
        room = self._room
        kinds = room.kinds[: len(text)]
        find_kinds(text, self._kinds, kinds)
        count = cut(text, kinds, self._pattern, room.candidates, room.pieces)
        pieces = room.pieces
        if may_have_seams(text):
            pieces = room.candidates
            count = narrow(text, room.pieces, count, self._tables.neighbours, pieces)
        ends = np.empty(len(texts), np.int64)
        total = encode(text, pieces, count, self._tables, room.tokens, ends)
        return room.tokens[:total].astype(dtype), np.diff(ends, prepend=0)

    def _normalised(self, texts: list[str]) -> list[str]:
        """The texts in NFC, themselves if they are; they must be the last ones that were run."""
        kinds = self._room.kinds
        normalizer = self._encoder.normalizer
        assert normalizer is not None, "tokenizer.json names one"
        begin, result, changed = len(_MARGIN), list(texts), False
        for place, text in enumerate(texts):
            end = begin + len(text.encode()) + 1
            if np.any(kinds[begin:end] & UNSTABLE):
                result[place], changed = normalizer.normalize_str(text), True
            begin = end
        return result if changed else texts

    def _refuse_unmerged(self, vocab: dict[str, int]) -> None:
        """Refuse a vocabulary that matters beyond its merges: a piece in it is always one token.

        Where merging gives that token anyway, as it mostly does, nothing is different. Pieces are
        whole characters, so tokens that are not do not matter, nor do those that are never a piece.
        """
        spelled = spelled_texts(vocab)
        tokens, counts = self.encode(list(spelled), "uint32")
        firsts = np.cumsum(counts) - counts
        suspects = (counts != 1) | (tokens[firsts] != np.array(list(spelled.values())))
        for text, suspect in zip(spelled, suspects, strict=True):
            if suspect and self._slow(text) == [spelled[text]]:
                raise NoFastPathError(f"ignore_merges, and {text!r} is a token that merges miss")


def _lots(texts: Sequence[str]) -> Iterator[list[str]]:
    """The texts in order, in lists of about ``_BYTES_AT_ONCE``."""
    lot: list[str] = []
    size = 0
    for text in texts:
        lot.append(text)
        size += len(text)
        if size >= _BYTES_AT_ONCE:
            yield lot
            lot, size = [], 0
    if lot:
        yield lot
