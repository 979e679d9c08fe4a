"""The replay buffer: a managed sample of all earlier data, in immutable versions.

It is stratified by domain and time. A version holds no copies: a stratum is (snapshot, domain), and
its share of the buffer is the first ``samples`` of a keyed permutation of that slice's training
samples, so a later version with a smaller share keeps a subset of what it had.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from storage.errors import CorruptError
from storage.layout import Layout
from storage.manifest import identity_of, load, publish
from storage.objects import ObjectStore


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayStratum:
    """What the buffer keeps of one domain of one snapshot."""

    snapshot: str
    domain: str
    samples: int
    """Kept: the first so many of the slice's keyed permutation."""
    available: int
    """Training samples of the slice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayManifest:
    """One version of the buffer."""

    id: str
    lineage: str
    budget_tokens: int
    seq_len: int
    strata: tuple[ReplayStratum, ...]


def allocate(
    budget_samples: int, available: Mapping[tuple[str, str], int]
) -> dict[tuple[str, str], int]:
    """Samples for each stratum (domain, snapshot): equal over domains, then over time within each.

    What a stratum cannot fill goes to the others, level by level, so the total is exactly
    ``min(budget_samples, sum(available))``. Pure; a stratum more never gives another one more.
    """
    by_domain: dict[str, dict[str, int]] = {}
    for (domain, snapshot), samples in available.items():
        by_domain.setdefault(domain, {})[snapshot] = samples
    shares = _filled(budget_samples, {d: sum(strata.values()) for d, strata in by_domain.items()})
    return {
        (domain, snapshot): samples
        for domain, strata in sorted(by_domain.items())
        for snapshot, samples in _filled(shares[domain], strata).items()
    }


def next_replay(
    previous: ReplayManifest | None,
    learned: Sequence[tuple[str, str, int]],
    *,
    budget_tokens: int,
    seq_len: int,
    lineage: str,
) -> ReplayManifest:
    """The buffer after the ``learned`` slices, each (snapshot, domain, available samples), entered.

    Strata that get no sample are kept in the manifest, so that a larger budget finds them again.

    Raises:
        ValueError: Another ``seq_len`` than before, or a slice with another number of samples.
    """
    if previous is not None and previous.seq_len != seq_len:
        raise ValueError(
            f"replay {previous.id} of {lineage} counts samples of {previous.seq_len} tokens, not "
            f"{seq_len}: seq_len is fixed when a lineage starts; set it back"
        )
    strata = previous.strata if previous is not None else ()
    available = {(stratum.domain, stratum.snapshot): stratum.available for stratum in strata}
    for snapshot, domain, samples in learned:
        known = available.setdefault((domain, snapshot), samples)
        if known != samples:
            raise ValueError(
                f"replay of {lineage} has {known} samples of {domain}@{snapshot}, the snapshot now "
                f"says {samples}; snapshots never change, so one of the two was altered"
            )
    shares = allocate(budget_tokens // seq_len, available)
    filled = tuple(
        ReplayStratum(
            snapshot=snapshot,
            domain=domain,
            samples=samples,
            available=available[domain, snapshot],
        )
        for (domain, snapshot), samples in shares.items()
    )
    return ReplayManifest(
        id=_id_of(lineage, budget_tokens, seq_len, filled),
        lineage=lineage,
        budget_tokens=budget_tokens,
        seq_len=seq_len,
        strata=filled,
    )


def publish_replay(store: ObjectStore, layout: Layout, manifest: ReplayManifest) -> None:
    """Write a version of the buffer. Safe to retry."""
    publish(store, layout.replay_manifest(manifest.id), manifest)


def read_replay(store: ObjectStore, layout: Layout, version: str) -> ReplayManifest:
    """A version of the buffer.

    Raises:
        NotFoundError: There is no such version.
        CorruptError: It was altered.
    """
    key = layout.replay_manifest(version)
    manifest = load(store, key, ReplayManifest)
    found = _id_of(manifest.lineage, manifest.budget_tokens, manifest.seq_len, manifest.strata)
    if not manifest.id == found == version:
        raise CorruptError(
            f"{key} was altered: its content has the id {found}, expected {version}; restore it "
            "from a copy"
        )
    return manifest


def _filled(budget: int, capacities: Mapping[str, int]) -> dict[str, int]:
    """``budget`` poured over ``capacities``: all rise to one level, each to its capacity at most.

    The level is found exactly in integers; what is left of less than one each goes to the first
    keys in order.
    """
    if budget < 0 or any(capacity < 0 for capacity in capacities.values()):
        raise ValueError(
            f"cannot share {budget} samples over {dict(capacities)}: expected numbers from 0 on"
        )
    left = min(budget, sum(capacities.values()))
    level = 0
    smallest_first = sorted(capacities.values())
    for index, capacity in enumerate(smallest_first):
        sharing = len(smallest_first) - index
        if (capacity - level) * sharing > left:
            level += left // sharing
            left %= sharing
            break
        left -= (capacity - level) * sharing
        level = capacity
    filled: dict[str, int] = {}
    for key in sorted(capacities):
        extra = int(left > 0 and capacities[key] > level)
        left -= extra
        filled[key] = min(capacities[key], level) + extra
    return filled


def _id_of(
    lineage: str, budget_tokens: int, seq_len: int, strata: tuple[ReplayStratum, ...]
) -> str:
    content = {
        "lineage": lineage,
        "budget_tokens": budget_tokens,
        "seq_len": seq_len,
        "strata": strata,
    }
    return identity_of(content)[:12]
