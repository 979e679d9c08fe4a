"""What guards the gate: old slices pooled to at most 20 guards, and how much of each is scored.

Noise decides both. Slices too small to show a loss of the margin are pooled with their neighbours
in time, and so are more pools than a budget can make sharp, which does not grow with the number of
updates. Pools merge, and the sample of a slice shrinks as others are added, so that what is scored
tonight is mostly on record already. Pure.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tasks.judge.power import detectable_effect
from tasks.judge.verdict import DocumentScore
from tasks.scoring.units import rank_of
from training.data.holdout_folder import ScoringUnit

MAX_GUARDS = 20
"""A verdict needs every one of them to hold: the more there are, the less often all do."""
PRIOR_SPREAD = 0.15
"""Nats per token, where a domain has no history: between the 0.08 of prose and the 0.20 of code
that docs/results/judge.md found, nearer to the worse."""
LEAST_CLUSTERS = 100
"""From here on bounds are as wide as they should be, clusters of uneven sizes included; see
docs/results/judge.md."""

_POOL_TO = 1 / 2
"""Of the margin: a guard may show smaller losses than it must. At the margin itself each would let
an unchanged model pass four times in five, and twenty together hardly ever."""
_SAMPLE_TO = 1 / 3
"""Of the margin, after which more clusters would not decide more."""
_UNEVEN = 1.5
"""Clusters of which one counts, as sizes differ: only numbers of clusters are known when pooling.
"""
_ESTIMABLE_CLUSTERS = 20
"""That a pair of versions must share to tell a spread."""
_LEAST_SPREAD = 1 / 128
"""Two versions that are nearly one model say little of the next one."""
_BOUND = 2.6
"""Standard errors between a margin and an effect that is shown with a probability of 80 %, as a
first approximation; what is told to people is computed exactly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OldSlice:
    """What pooling needs to know of a slice."""

    name: str
    domain: str
    refresh: int
    """Which of the lineage's snapshots it is from, counted from 1."""
    clusters: int
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Slices of one domain that follow each other in time and are judged as one."""

    label: str
    """The domain, with the refreshes when it has several pools."""
    domain: str
    slices: tuple[str, ...]
    """Oldest first."""
    is_guarded: bool
    """False for what is beyond ``MAX_GUARDS``: it informs."""
    max_tokens: int
    """Of the budget."""


@dataclass(slots=True)
class Sizes:
    """Targets of clusters that are judged as one, and what they can show."""

    by_cluster: dict[str, int] = field(default_factory=dict[str, int])
    tokens: int = 0
    squares: int = 0
    """Sum of squared targets over the clusters."""

    def add(self, unit: ScoringUnit) -> None:
        """Count a unit in; a cluster that is in several units or slices is one."""
        for cluster, targets in zip(unit.clusters, unit.targets, strict=True):
            before = self.by_cluster.get(cluster, 0)
            self.by_cluster[cluster] = before + targets
            self.squares += targets * (2 * before + targets)
            self.tokens += targets

    def is_enough(self, spread: float, margin: float) -> bool:
        """Whether more clusters would not decide more."""
        if len(self.by_cluster) < LEAST_CLUSTERS:
            return False
        return _BOUND * spread * math.sqrt(self.squares) / self.tokens <= _SAMPLE_TO * margin

    def detectable(self, spread: float, alpha: float) -> float | None:
        """Smallest detectable effect in nats per token; None: none."""
        return detectable_effect(list(self.by_cluster.values()), spread, alpha)


def pool(
    slices: Sequence[OldSlice],
    *,
    spreads: Mapping[str, float],
    margin: float,
    max_tokens: int,
) -> tuple[Pool, ...]:
    """Old slices in at most ``MAX_GUARDS`` guards, and what is beyond them.

    The slices enter one after the other, as they once came. One that comes while the newest pool of
    its domain is too small to show half of the margin joins that pool. When there are too many
    pools, or the budget is too small for all to show as much, the domain that has most of them
    merges its two smallest neighbours. A newest pool that is still too small is judged with the one
    before it.

    Args:
        slices: Oldest first.
        spreads: Between-cluster standard deviation by domain, nats per token; else the prior.
        margin: Largest tolerated loss, nats per token.
        max_tokens: The budget: targets that are scored of all pools together.
    """
    needs = _Needs(spreads, margin)
    pools: dict[str, list[list[OldSlice]]] = {}
    for item in slices:
        of_domain = pools.setdefault(item.domain, [])
        if of_domain and needs.is_small(of_domain[-1]):
            of_domain[-1].append(item)
        else:
            of_domain.append([item])
        _merge_down(pools, needs, max_tokens)
    for of_domain in pools.values():
        if len(of_domain) > 1 and needs.is_small(of_domain[-1]):
            last = of_domain.pop()
            of_domain[-1] = of_domain[-1] + last
    return _shared_out(pools, needs, max_tokens)


@dataclass(frozen=True, slots=True)
class _Needs:
    """What it takes to show half of the margin."""

    spreads: Mapping[str, float]
    margin: float

    def is_small(self, members: Sequence[OldSlice]) -> bool:
        return _clusters(members) < self._enough(members)

    def tokens(self, members: Sequence[OldSlice]) -> float:
        """Targets that are to be scored, all when there are too few."""
        held_out = sum(item.tokens for item in members)
        share = self._enough(members) / max(1, _clusters(members))
        return held_out * min(1.0, share)

    def _enough(self, members: Sequence[OldSlice]) -> float:
        """Clusters."""
        if self.margin == 0:
            return math.inf
        spread = self.spreads.get(members[0].domain, PRIOR_SPREAD)
        return _UNEVEN * (_BOUND * spread / (_POOL_TO * self.margin)) ** 2


def sample(
    slices: Iterable[str],
    units_of: Callable[[str], Sequence[ScoringUnit]],
    *,
    max_tokens: int,
    spread: float,
    margin: float,
) -> tuple[dict[str, int], Sizes]:
    """How many of the first units of each slice are scored, and what they hold.

    The first units of all slices, then the second ones, and so on, the slices in the order of a
    hash: with a slice more, each other one keeps at most what it had. At least one unit is taken.

    Args:
        slices: Names of those that are judged as one.
        units_of: The units of a slice; asked only for slices that are reached.
        max_tokens: Targets, at most, but for a first unit.
        spread: Between-cluster standard deviation, nats per token.
        margin: Of the requirement, nats per token: once far less can be shown, nothing is added.
    """
    left = sorted(slices, key=lambda name: rank_of(name, "slices"))
    depths: dict[str, int] = {}
    sizes = Sizes()
    level = 0
    while left:
        deeper: list[str] = []
        for name in left:
            units = units_of(name)
            if level >= len(units):
                continue
            is_over = sizes.tokens + units[level].tokens > max_tokens
            if depths and (is_over or sizes.is_enough(spread, margin)):
                return depths, sizes
            sizes.add(units[level])
            depths[name] = level + 1
            deeper.append(name)
        left, level = deeper, level + 1
    return depths, sizes


def spread_of(pairs: Iterable[tuple[Sequence[DocumentScore], Sequence[DocumentScore]]]) -> float:
    """Between-cluster standard deviation of the difference of two models, nats per token.

    Weighted by the squares of the clusters' targets, as the error of a ratio of sums is. Rounded up
    to a power of the square root of 2, so that the pools do not move with every night's noise; the
    prior without any pair of enough clusters.

    Args:
        pairs: Two models' scores of the same documents, in the same order, once for each pair.
    """
    found: list[float] = []
    for ours, theirs in pairs:
        nats: dict[str, float] = {}
        targets: dict[str, int] = {}
        for one, other in zip(ours, theirs, strict=True):
            nats[one.cluster] = nats.get(one.cluster, 0.0) + one.nats - other.nats
            targets[one.cluster] = targets.get(one.cluster, 0) + one.targets
        total = math.fsum(nats.values())
        if len(nats) < _ESTIMABLE_CLUSTERS or not math.isfinite(total):
            continue
        mean = total / sum(targets.values())
        squares = math.fsum((nats[name] - mean * targets[name]) ** 2 for name in nats)
        found.append(squares / math.fsum(size**2 for size in targets.values()))
    if not found:
        return PRIOR_SPREAD
    spread = max(math.sqrt(math.fsum(found) / len(found)), _LEAST_SPREAD)
    return 2 ** (math.ceil(2 * math.log2(spread)) / 2)


def _clusters(members: Iterable[OldSlice]) -> int:
    return sum(item.clusters for item in members)


def _merge_down(pools: dict[str, list[list[OldSlice]]], needs: _Needs, max_tokens: int) -> None:
    """Merge until number and budget are kept, or there is one pool of every domain."""
    while sum(map(len, pools.values())) > MAX_GUARDS or max_tokens < sum(
        needs.tokens(members) for of_domain in pools.values() for members in of_domain
    ):
        domain = max(sorted(pools), key=lambda domain: len(pools[domain]))
        of_domain = pools[domain]
        if len(of_domain) == 1:
            return
        at = min(
            range(len(of_domain) - 1),
            key=lambda at: _clusters(of_domain[at]) + _clusters(of_domain[at + 1]),
        )
        of_domain[at : at + 2] = [of_domain[at] + of_domain[at + 1]]


def _shared_out(
    pools: Mapping[str, list[list[OldSlice]]], needs: _Needs, max_tokens: int
) -> tuple[Pool, ...]:
    """The domains with most clusters guard, by shares of what they need; the others inform."""
    by_size = sorted(pools, key=lambda domain: (-sum(map(_clusters, pools[domain])), domain))
    guarded, others = set(by_size[:MAX_GUARDS]), by_size[MAX_GUARDS:]
    # All that informs has together as much as one guard would on average.
    aside = max_tokens // MAX_GUARDS if others else 0
    of_guards = [members for domain in sorted(guarded) for members in pools[domain]]
    shares = iter(
        _filled(
            max_tokens - aside,
            [needs.tokens(members) for members in of_guards],
            [sum(item.tokens for item in members) for members in of_guards],
        )
    )
    return tuple(
        Pool(
            label=_label(domain, members, is_alone=len(pools[domain]) == 1),
            domain=domain,
            slices=tuple(item.name for item in members),
            is_guarded=domain in guarded,
            max_tokens=next(shares) if domain in guarded else aside // len(others),
        )
        for domain in sorted(pools)
        for members in pools[domain]
    )


def _filled(budget: int, needed: Sequence[float], held_out: Sequence[int]) -> list[int]:
    """A budget in proportion to what is needed; what one cannot use, for it is all, is others'.

    Else a guard that needs little to show a loss against the champion would be scored on little
    although there is budget for all of it, and show nothing against the versions before that.
    """
    shares = [0.0] * len(needed)
    left, open_ = float(budget), set(range(len(needed)))
    while open_:
        level = left / max(1.0, math.fsum(needed[at] for at in open_))
        full = {at for at in open_ if held_out[at] <= level * needed[at]}
        for at in full or open_:
            shares[at] = held_out[at] if full else level * needed[at]
        if not full:
            break
        left -= math.fsum(shares[at] for at in full)
        open_ -= full
    return [int(share) for share in shares]


def _label(domain: str, members: Sequence[OldSlice], *, is_alone: bool) -> str:
    if is_alone:
        return domain
    first, last = members[0].refresh, members[-1].refresh
    return f"{domain} refresh {first}" if first == last else f"{domain} refreshes {first}-{last}"
