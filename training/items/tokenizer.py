"""What scoring needs of a tokenizer; ``training.tokenizer.Tokenizer`` is one. Needs no torch."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np


class ItemTokenizer(Protocol):
    """Text to token ids and back."""

    @property
    def start_id(self) -> int:
        """Opens a document; what a text without context is read after."""
        ...

    @property
    def end_id(self) -> int:
        """Closes a document, and generation with it."""
        ...

    @property
    def adds_start(self) -> bool:
        """Whether its files say that ``start_id`` opens every text, as they do for Llama."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token ids of each text, without framing."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of ``tokens``."""
        ...
