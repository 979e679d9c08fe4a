"""What is left of a refresh's documents once all were read: caps on shares, then the sides."""

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from storage.known_documents import KnownDocuments
from tasks.curate import CurateConfig, caps_of
from tasks.edited import HeldOutOfFiles, clusters_of_edited
from tasks.framing import framed_length, framing_of
from tasks.shares import SOURCE_SHARE, SYNTHETIC_SHARE, KeptTexts, cap_shares
from tasks.split import (
    DROPPED,
    HOLDOUT_CAP,
    HoldoutConfig,
    SplitRows,
    key_of,
    rank_of,
    split_by_cluster,
)
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
    edited: dict[int, str]
    """Clusters by row, of what takes that of the held-out document that it is a version of."""
    warnings: list[str]

    @property
    def dropped(self) -> Counter[str]:
        """Documents by late reason."""
        codes, counts = np.unique(self.late[self.late > 0], return_counts=True)
        return Counter(
            {LATE_REASONS[c]: n for c, n in zip(codes.tolist(), counts.tolist(), strict=True)}
        )


@dataclass(frozen=True, slots=True)
class SettleRules:
    """What decides where documents go."""

    curate: CurateConfig
    """With the caps."""
    holdout: HoldoutConfig
    held_out: HeldOutOfFiles
    """What is held out of files that were replaced."""
    lineage: str


def settle(
    documents: SpooledDocuments,
    known: KnownDocuments,
    rules: SettleRules,
    tokenizer: "Tokenizer",
) -> Settled:
    """Find edited versions of held-out ones, drop what is beyond a cap, and split the rest. Pure.

    Args:
        documents: All of the refresh, with their tokens.
        known: Which clusters lie on which side.
        rules: What decides.
        tokenizer: Whose framing counts.
    """
    late = np.zeros(len(documents), np.int8)
    keys, ranks = documents.keys("cluster_key").copy(), documents.floats("rank").copy()
    edited = clusters_of_edited(documents, rules.held_out)
    for row, cluster in edited.items():
        keys[row] = key_of(cluster)
        domain = documents.domain_names[documents.domains[row]]
        ranks[row] = rank_of(rules.lineage, domain, cluster)
    held, trained = known.splits_of(keys)
    if rules.curate.shares:
        # What will be held out is left alone.
        rows = np.flatnonzero(documents.is_kept & ~held)
        late[rows] = _over_caps(documents, rows, rules.curate)
    kept = np.flatnonzero(documents.is_kept & (late == 0))
    splits = np.full(len(documents), DROPPED, np.int8)
    splits[kept], warnings = split_by_cluster(
        SplitRows(
            domain_names=documents.domain_names,
            domains=documents.domains[kept],
            cluster_keys=keys[kept],
            ranks=ranks[kept],
            tokens=framed_length(documents.lengths[kept], framing_of(tokenizer)),
            was_held_out=held[kept],
            was_trained_on=trained[kept],
        ),
        rules.holdout,
    )
    late[kept[splits[kept] == DROPPED]] = LATE_REASONS.index(HOLDOUT_CAP)
    return Settled(splits, late, edited, warnings)


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
