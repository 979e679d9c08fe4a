"""Which documents are never trained on, decided by their clusters and the lineage's history.

A cluster (a work, a site, a repository) lies on one side as a whole and stays there for ever, in
every domain, so that nothing held out has a sibling that was trained on. Documents of a held-out
cluster that come later are held out too, up to the cap, and dropped beyond it.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from infra.bounds import Bounds
from training.config import FORBID_UNKNOWN

_ALWAYS_HELD = 8
"""Clusters: with fewer, a bootstrap by cluster says next to nothing."""

Side = Literal["train", "holdout"]
Split = Literal["train", "holdout", "dropped"]

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


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitRow:
    """One kept document, as far as the split is concerned."""

    domain: str
    cluster: str
    tokens: int
    """Tokens with framing."""


@dataclass(frozen=True, slots=True)
class SplitResult:
    """The sides of all clusters of a refresh."""

    splits: dict[tuple[str, str], Split]
    """By domain and cluster; ``dropped`` is a held-out cluster beyond the cap of that domain."""
    warnings: tuple[str, ...]


def key_of(cluster: str) -> bytes:
    """16 bytes that stand for a cluster in the index of what the lineage knows."""
    return hashlib.sha256(cluster.encode()).digest()[:16]


def split_by_cluster(
    rows: Iterable[SplitRow],
    known_side: Callable[[bytes], Side | None],
    config: HoldoutConfig,
    *,
    lineage: str,
) -> SplitResult:
    """Assign every cluster of ``rows`` to a side.

    Deterministic and independent of the order of ``rows``. Domains are taken in order of their
    names, so a cluster that several domains share lies on the side that the first one gave it.

    Args:
        rows: The kept documents of one refresh.
        known_side: Side that earlier snapshots gave a cluster, by ``key_of``; None for a new one.
        config: Size of the holdout.
        lineage: Keys the hash together with the domain: another lineage holds out other clusters.
    """
    sizes: dict[str, dict[str, int]] = {}
    for row in rows:
        clusters = sizes.setdefault(row.domain, {})
        clusters[row.cluster] = clusters.get(row.cluster, 0) + row.tokens
    decided: dict[bytes, Side] = {}

    def side_of(key: bytes) -> Side | None:
        return decided.get(key) or known_side(key)

    splits: dict[tuple[str, str], Split] = {}
    warnings: list[str] = []
    for domain in sorted(sizes):
        chosen = _split_domain(sizes[domain], side_of, config, key=f"{lineage}/{domain}".encode())
        for cluster, split in chosen.items():
            splits[domain, cluster] = split
            decided[key_of(cluster)] = "train" if split == "train" else "holdout"
        if "holdout" not in chosen.values():
            warnings.append(
                f"domain {domain}: nothing of its {len(chosen)} clusters is held out, so this "
                "snapshot cannot show a gain or a loss there; give sources with at least two "
                "clusters smaller than max_tokens"
            )
    return SplitResult(splits, tuple(warnings))


def _split_domain(
    sizes: Mapping[str, int],
    side_of: Callable[[bytes], Side | None],
    config: HoldoutConfig,
    *,
    key: bytes,
) -> dict[str, Split]:
    """Sides of the clusters of one domain, ``sizes`` in tokens.

    Known clusters keep their side, and those that are held out fill the cap first.
    """
    ranks = {cluster: _rank(cluster, key) for cluster in sizes}
    splits: dict[str, Split] = {}
    unknown: list[str] = []
    room = config.max_tokens
    for cluster in sorted(sizes, key=ranks.__getitem__):
        side = side_of(key_of(cluster))
        if side is None:
            unknown.append(cluster)
        elif side == "train":
            splits[cluster] = "train"
        elif sizes[cluster] <= room:
            splits[cluster] = "holdout"
            room -= sizes[cluster]
        else:
            splits[cluster] = "dropped"
    held = sum(split == "holdout" for split in splits.values())
    half = len(sizes) // 2
    bearable = max(min(_ALWAYS_HELD, half), int(config.max_fraction * len(sizes)))
    least = max(0, min(config.min_clusters, bearable) - held)
    below = sum(ranks[cluster] < config.fraction for cluster in unknown)
    most = max(0, min(max(below, least), half - held))
    chosen = _choose(unknown, sizes, least=least, most=most, room=room)
    for cluster in unknown:
        splits[cluster] = "holdout" if cluster in chosen else "train"
    return splits


def _choose(
    ordered: Sequence[str], sizes: Mapping[str, int], *, least: int, most: int, room: int
) -> set[str]:
    """Up to ``most`` clusters of ``ordered`` that together have at most ``room`` tokens.

    A cluster that does not fit is passed over while there are fewer than ``least``, so that a
    giant does not leave a domain without a holdout. After that it ends the choice: going on would
    fill the holdout with small clusters only.
    """
    chosen: set[str] = set()
    for cluster in ordered:
        fits = sizes[cluster] <= room
        if len(chosen) >= most or (not fits and len(chosen) >= least):
            break
        if fits:
            chosen.add(cluster)
            room -= sizes[cluster]
    return chosen


def _rank(cluster: str, key: bytes) -> float:
    """Where the keyed hash puts a cluster in [0, 1)."""
    digest = hashlib.blake2b(
        cluster.encode(), digest_size=6, key=hashlib.sha256(key).digest()
    ).digest()
    return int.from_bytes(digest, "big") / 2**48
