"""What is left of a refresh's documents once all were read: caps on shares, then the sides."""

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from storage.known_documents import KnownDocuments
from tasks.curate import CurateConfig, caps_of
from tasks.pack import framed_length, framing_of
from tasks.shares import SOURCE_SHARE, SYNTHETIC_SHARE, KeptTexts, cap_shares
from tasks.split import DROPPED, HOLDOUT_CAP, HoldoutConfig, SplitRows, split_by_cluster
from tasks.spool import SpooledDocuments

if TYPE_CHECKING:
    from training.tokenizer import Tokenizer

LATE_REASONS = ("", HOLDOUT_CAP, SYNTHETIC_SHARE, SOURCE_SHARE)
"""Why a document is dropped that every stage before has kept. Arrays hold their places."""


# Not comparable: it holds arrays.
@dataclass(frozen=True, slots=True, eq=False)
class Settled:
    """Where each document goes."""

    splits: NDArray[np.int8]
    """``int8[documents]``, places in ``SPLITS``."""
    late: NDArray[np.int8]
    """``int8[documents]``, places in ``LATE_REASONS``."""
    warnings: list[str]

    @property
    def dropped(self) -> Counter[str]:
        """Documents by late reason."""
        codes, counts = np.unique(self.late[self.late > 0], return_counts=True)
        return Counter(
            {LATE_REASONS[c]: n for c, n in zip(codes.tolist(), counts.tolist(), strict=True)}
        )


def settle(
    documents: SpooledDocuments,
    known: KnownDocuments,
    curate: CurateConfig,
    holdout: HoldoutConfig,
    tokenizer: "Tokenizer",
) -> Settled:
    """Drop what is beyond a cap on shares, and split the rest. Pure.

    Args:
        documents: All of the refresh, with their tokens.
        known: Which clusters lie on which side.
        curate: With the caps.
        holdout: Size of the holdout.
        tokenizer: Whose framing counts.
    """
    late = np.zeros(len(documents), np.int8)
    keys = documents.keys("cluster_key")
    held, trained = known.splits_of(keys)
    if curate.shares:
        # What will be held out is left alone.
        rows = np.flatnonzero(documents.is_kept & ~held)
        late[rows] = _over_caps(documents, rows, curate)
    kept = np.flatnonzero(documents.is_kept & (late == 0))
    splits = np.full(len(documents), DROPPED, np.int8)
    splits[kept], warnings = split_by_cluster(
        SplitRows(
            domain_names=documents.domain_names,
            domains=documents.domains[kept],
            cluster_keys=keys[kept],
            ranks=documents.floats("rank")[kept],
            tokens=framed_length(documents.lengths[kept], framing_of(tokenizer)),
            was_held_out=held[kept],
            was_trained_on=trained[kept],
        ),
        holdout,
    )
    late[kept[splits[kept] == DROPPED]] = LATE_REASONS.index(HOLDOUT_CAP)
    return Settled(splits, late, warnings)


def _over_caps(
    documents: SpooledDocuments, rows: NDArray[np.int64], curate: CurateConfig
) -> NDArray[np.int8]:
    """Places in ``LATE_REASONS`` of the given rows."""
    table = documents.table("source", "provenance").take(rows)
    texts = KeptTexts(
        domains=documents.domains[rows].astype(np.int64),
        sources=np.unique(table["source"].to_numpy().astype(str), return_inverse=True)[1],
        is_synthetic=table["provenance"].to_numpy() == "synthetic",
        tokens=documents.lengths[rows],
        digests=documents.keys("content")[rows],
    )
    caps = {code: caps_of(curate.shares, name) for code, name in enumerate(documents.domain_names)}
    codes = {reason: code for code, reason in enumerate(LATE_REASONS)}
    return np.array([codes[reason] for reason in cap_shares(texts, caps)], np.int8)
