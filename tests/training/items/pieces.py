"""A tokenizer small enough to work out by hand."""

from collections.abc import Sequence

import numpy as np

PIECES = ("<start>", "<end>", *"abcdefgh", " ", "\n", " a", " b", "ab", "cd", "abc", " abc", "é")


class PieceTokenizer:
    """The longest piece that fits, from left to right."""

    start_id, end_id = 0, 1

    def __init__(self, *, adds_start: bool = False) -> None:
        self.adds_start = adds_start

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.array(self._encoded(text), np.uint16) for text in texts]

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(PIECES[token] for token in tokens)

    def _encoded(self, text: str) -> list[int]:
        tokens: list[int] = []
        while text:
            piece = max((piece for piece in PIECES if text.startswith(piece)), key=len)
            tokens.append(PIECES.index(piece))
            text = text[len(piece) :]
        return tokens


def ids(*pieces: str) -> tuple[int, ...]:
    return tuple(PIECES.index(piece) for piece in pieces)
