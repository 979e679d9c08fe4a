"""How documents are framed: the tokens that a tokenizer lays down around each."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from training.tokenizer import Tokenizer

_Count = TypeVar("_Count", int, NDArray[np.int64])


@dataclass(frozen=True, slots=True, kw_only=True)
class Framing:
    """What a tokenizer lays down for packing."""

    start_id: int
    end_id: int
    token_dtype: str
    """``uint16`` or ``uint32``."""
    vocab_size: int


def framing_of(tokenizer: "Tokenizer") -> Framing:
    """What packing needs to know of ``tokenizer``."""
    return Framing(
        start_id=tokenizer.start_id,
        end_id=tokenizer.end_id,
        token_dtype=tokenizer.token_dtype,
        vocab_size=tokenizer.vocab_size,
    )


def framed_length(num_tokens: _Count, framing: Framing) -> _Count:
    """Tokens of a training document of ``num_tokens`` with its framing, or of several."""
    return num_tokens + (1 if framing.start_id == framing.end_id else 2)
