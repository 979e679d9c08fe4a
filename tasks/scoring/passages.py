"""The few passages of held-out text that both models read before anything dear is computed."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from storage.manifest import identity_of
from tasks.judge.verdict import Role
from training.data.holdout import HoldoutDocument

_PASSAGES = 48
_SLICES = 24
_PASSAGE_TOKENS = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The first tokens of a few held-out documents of one slice."""

    slice: str
    domain: str
    snapshot: str
    role: Role
    is_guarded: bool
    """False: the slice informs; no verdict depends on it, but a collapse shows there too."""
    documents: tuple[HoldoutDocument, ...]
    """Cut off; their ``text_bytes`` are of the whole documents."""

    @property
    def passages(self) -> list[NDArray[np.int64]]:
        """Token ids, by document."""
        return [document.tokens.astype(np.int64) for document in self.documents]


def spread_over(count: int) -> slice:
    """At most as many slices of ``count`` as are looked at, at even distances."""
    return slice(None, None, max(1, -(-count // _SLICES)))


def passages_a_slice(slices: int) -> int:
    """Documents of each of so many slices."""
    return max(1, _PASSAGES // max(1, slices))


def passages_of(
    documents: Sequence[HoldoutDocument], count: int, *, seq_len: int
) -> list[HoldoutDocument]:
    """The first tokens of ``count`` documents, by the hash of their names: the same every time.

    None has more inputs than ``seq_len``, beyond which a model was never trained.
    """
    inputs = min(_PASSAGE_TOKENS, seq_len)
    chosen = sorted(documents, key=lambda row: hashlib.sha256(row.document.encode()).digest())
    return [
        HoldoutDocument(row.document, row.cluster, row.tokens[: inputs + 1], row.text_bytes)
        for row in chosen[:count]
    ]


def sample_hash(samples: Sequence[Sample]) -> str:
    """Hex SHA-256 of which tokens are looked at."""
    return identity_of(
        [(item.slice, [tokens.tolist() for tokens in item.passages]) for item in samples]
    )
