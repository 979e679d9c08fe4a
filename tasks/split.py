"""Which documents are never trained on, decided by their clusters and the lineage's history.

A cluster (a work, a site, a repository) lies on one side as a whole and stays there for ever, in
every domain, so that nothing held out has a sibling that was trained on. Documents of a held-out
cluster that come later are held out too, up to the cap, and dropped beyond it.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from infra.bounds import Bounds
from training.config import FORBID_UNKNOWN

_ALWAYS_HELD = 8
"""Clusters: with fewer, a bootstrap by cluster says next to nothing."""

Side = Literal["train", "holdout"]
Split = Literal["train", "holdout", "dropped"]
SPLITS: tuple[Split, ...] = ("dropped", "train", "holdout")
"""Arrays hold their places."""
DROPPED, TRAIN, HOLDOUT = range(3)

HOLDOUT_CAP = "holdout_cap"
"""Reason of a document dropped because its cluster is held out and the holdout is full."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HoldoutConfig:
    """How much of each refresh is held out."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN

    fraction: Annotated[float, Bounds(gt=0, le=0.5)] = 0.02
    """Share of the new clusters of a domain that is held out."""
    min_clusters: Annotated[int, Bounds(ge=1, unit="clusters")] = 100
    """Held out of a domain and refresh at least, where max_fraction leaves that many: from about
    100 clusters on a verdict keeps what it promises. Smaller holdouts are judged together."""
    max_fraction: Annotated[float, Bounds(gt=0, le=0.5)] = 0.2
    """Share of the clusters of a domain and refresh that min_clusters may take at most, but that 8
    are held out of a small refresh, or half of one of fewer than 16 clusters."""
    max_tokens: Annotated[int, Bounds(gt=0, unit="tokens")] = 200_000
    """Held out of a domain and refresh at most. How much of it is scored check.judged_tokens
    bounds."""


# Not comparable: it holds arrays.
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SplitRows:
    """The kept documents of one refresh, as far as the split is concerned; an entry each."""

    domain_names: Sequence[str]
    domains: NDArray[np.int32]
    """Places in ``domain_names``."""
    cluster_keys: NDArray[np.bytes_]
    """``S16``: ``key_of`` the cluster."""
    ranks: NDArray[np.float64]
    """``rank_of`` the cluster in the domain."""
    tokens: NDArray[np.int64]
    """With framing."""
    was_held_out: NDArray[np.bool_]
    """Whether earlier snapshots held the cluster out."""
    was_trained_on: NDArray[np.bool_]
    """Whether they trained on it, and held nothing of it out."""


def key_of(cluster: str) -> bytes:
    """16 bytes that stand for a cluster in the index of what the lineage knows."""
    return hashlib.sha256(cluster.encode()).digest()[:16]


def rank_of(lineage: str, domain: str, cluster: str) -> float:
    """Where the keyed hash puts a cluster in [0, 1): other lineages hold out other clusters."""
    digest = hashlib.blake2b(
        cluster.encode(), digest_size=6, key=_rank_key(f"{lineage}/{domain}")
    ).digest()
    return int.from_bytes(digest, "big") / 2**48


@cache
def _rank_key(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def split_by_cluster(rows: SplitRows, config: HoldoutConfig) -> tuple[NDArray[np.int8], list[str]]:
    """The side of every document, and a sentence for every domain without a holdout.

    Deterministic and independent of the order of ``rows``. Domains are taken in order of their
    names, so a cluster that several domains share lies on the side that the first one gave it.

    Args:
        rows: The documents.
        config: Size of the holdout.

    Returns:
        ``int8[documents]`` of places in ``SPLITS``: ``dropped`` is what lies in a held-out cluster
        beyond the cap of its domain.
    """
    splits = np.zeros(len(rows.domains), np.int8)
    held_before, trained_before = np.empty(0, "S16"), np.empty(0, "S16")
    warnings: list[str] = []
    for code in sorted(range(len(rows.domain_names)), key=rows.domain_names.__getitem__):
        inside = np.flatnonzero(rows.domains == code)
        if not len(inside):
            continue
        clusters, first, of = np.unique(
            rows.cluster_keys[inside], return_index=True, return_inverse=True
        )
        sides = np.full(len(clusters), -1, np.int8)
        sides[rows.was_trained_on[inside][first] | np.isin(clusters, trained_before)] = TRAIN
        sides[rows.was_held_out[inside][first] & ~np.isin(clusters, trained_before)] = HOLDOUT
        sides[np.isin(clusters, held_before)] = HOLDOUT
        # In floats: exact up to 2**53 tokens.
        sizes = np.bincount(of, rows.tokens[inside]).astype(np.int64)
        chosen = _split_domain(rows.ranks[inside][first], sizes, sides, config)
        splits[inside] = chosen[of]
        trained_before = np.union1d(trained_before, clusters[chosen == TRAIN])
        held_before = np.union1d(held_before, clusters[chosen != TRAIN])
        if not (chosen == HOLDOUT).any():
            warnings.append(
                f"domain {rows.domain_names[code]}: nothing of its {len(clusters)} clusters is "
                "held out, so this snapshot cannot show a gain or a loss there; give sources with "
                "at least two clusters smaller than max_tokens"
            )
    return splits, warnings


def _split_domain(
    ranks: NDArray[np.float64],
    sizes: NDArray[np.int64],
    sides: NDArray[np.int8],
    config: HoldoutConfig,
) -> NDArray[np.int8]:
    """Places in ``SPLITS`` of the clusters of one domain, ``sizes`` in tokens, ``sides`` or -1.

    Known clusters keep their side, and those that are held out fill the cap first.
    """
    splits = np.full(len(ranks), TRAIN, np.int8)
    order = np.argsort(ranks, kind="stable")
    room = config.max_tokens
    for cluster in order[sides[order] == HOLDOUT].tolist():
        fits = int(sizes[cluster]) <= room
        splits[cluster] = HOLDOUT if fits else DROPPED
        room -= int(sizes[cluster]) if fits else 0
    held = int((splits == HOLDOUT).sum())
    half = len(sizes) // 2
    bearable = max(min(_ALWAYS_HELD, half), int(config.max_fraction * len(sizes)))
    least = max(0, min(config.min_clusters, bearable) - held)
    unknown = order[sides[order] == -1]
    below = int((ranks[unknown] < config.fraction).sum())
    most = max(0, min(max(below, least), half - held))
    splits[_choose(unknown, sizes, least=least, most=most, room=room)] = HOLDOUT
    return splits


def _choose(
    ordered: NDArray[np.int64], sizes: NDArray[np.int64], *, least: int, most: int, room: int
) -> list[int]:
    """Up to ``most`` clusters of ``ordered`` that together have at most ``room`` tokens.

    A cluster that does not fit is passed over while there are fewer than ``least``, so that a
    giant does not leave a domain without a holdout. After that it ends the choice: going on would
    fill the holdout with small clusters only.
    """
    chosen: list[int] = []
    for cluster in ordered:
        size = int(sizes[cluster])
        if len(chosen) >= most or (size > room and len(chosen) >= least):
            break
        if size <= room:
            chosen.append(int(cluster))
            room -= size
    return chosen
