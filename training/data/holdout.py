"""Held-out documents, and what a model made of them. Needs no torch.

Written by ``training.shard_writer``, read by ``training.data.shards``, scored by
``training.evaluate``.
"""

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray


# Not comparable: the tokens are an array.
@dataclass(frozen=True, slots=True, eq=False)
class HoldoutDocument:
    """One document that is never trained on, a row of a holdout shard."""

    document: str
    cluster: str
    tokens: NDArray[Any]
    """Framed, integers ``[n]``: the start token, the text, the end token."""
    text_bytes: int
    """UTF-8 bytes of the normalised text, for bits per byte."""


@dataclass(frozen=True, slots=True)
class DocumentScore:
    """What one model made of one held-out document."""

    document: str
    cluster: str
    nats: float
    """Sum of -log p over the targets."""
    targets: int
    """Every token but the first."""
    text_bytes: int
