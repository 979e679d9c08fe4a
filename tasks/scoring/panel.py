"""What a candidate is judged on: guards over the old slices, a sample of what is new.

Decided before anything is trained, from the suite and the lineage's own history, so that a plan can
say what its verdict will be able to see. Needs no torch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from storage.head import Head, VersionRecord
from storage.layout import Layout
from storage.objects import ObjectStore
from storage.suite import SuiteManifest, SuiteSlice
from tasks.judge.verdict import ALL_NEW, CheckConfig, DocumentScore, Role
from tasks.scoring.guards import PRIOR_SPREAD, OldSlice, Pool, pool, sample, spread_of
from tasks.scoring.scores import Record, record_of
from tasks.scoring.units import SliceUnits, item_key, read_units, stored_units
from training.data.holdout_folder import ScoringUnit

_RECENT_VERSIONS = 5
"""Judged ones, whose differences from their champions tell a domain's spread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """Held-out text that is judged as one, and what it can show; part of a plan."""

    label: str
    """What the verdict calls it; for all new slices together ``tasks.judge.verdict.ALL_NEW``."""
    slices: tuple[str, ...]
    """``<domain>@<snapshot>``, oldest first; also those that no unit is scored of."""
    clusters: int
    """Scored."""
    held_out_clusters: int
    """Of all the slices, as many or more than are scored."""
    tokens: int
    """Scored."""
    margin: float
    """Largest tolerated loss, or smallest gain, in nats per token."""
    spread: float
    """Between-cluster standard deviation that sizes were chosen for, nats per token."""
    detectable: float | None
    """Distance from the margin that will be shown with a probability of 80 %, nats per token."""
    is_guarded: bool = True
    """False: it informs."""

    @property
    def is_sharp(self) -> bool:
        """Whether an unchanged model will be seen to be one."""
        return self.detectable is not None and self.detectable <= self.margin


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedSlice:
    """A slice of which something is scored."""

    item: SuiteSlice
    role: Role
    label: str
    """Of its guard; of a new slice its domain."""
    is_guarded: bool
    units: SliceUnits
    depth: int
    """How many of its first units are scored."""

    @property
    def scored(self) -> tuple[ScoringUnit, ...]:
        """The units that are scored."""
        return self.units.units[: self.depth]

    @property
    def tokens(self) -> int:
        """Targets that are scored."""
        return sum(unit.tokens for unit in self.scored)


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """Everything that a verdict will rest on."""

    slices: tuple[JudgedSlice, ...]
    """In the order of the suite."""
    guards: tuple[Guard, ...]
    """Of old slices, by domain and time."""
    new: Guard | None
    """All new slices together; None when nothing new is held out."""

    @property
    def tokens(self) -> int:
        """Targets that a model is scored on."""
        return sum(item.tokens for item in self.slices)


def panel_of(
    store: ObjectStore,
    layout: Layout,
    *,
    head: Head,
    suite: SuiteManifest,
    new_snapshots: Sequence[str],
    config: CheckConfig,
    work_dir: Path,
    keep: bool = True,
) -> Panel:
    """Choose what is scored. Safe to retry; the same state of the lineage gives the same panel.

    Args:
        store: Holds snapshots and scores.
        layout: Of the lineage.
        head: Tells which snapshots are old, and which versions were judged.
        suite: Of the head.
        new_snapshots: What has to be learned.
        config: Margins, level, and how many tokens are scored.
        work_dir: For local copies of shards whose units are not on record yet.
        keep: Put the units on record.

    Raises:
        CorruptError: A shard or a record is damaged.
    """
    roles = roles_of(head, new_snapshots)
    items = {item.name: item for item in suite.slices if item.snapshot in roles and item.documents}
    chooser = _Chooser(store, layout, work_dir, keep, items, {})
    spreads = _spreads(store, layout, head, list(items.values()))
    old = _old_slices(head, [item for item in items.values() if roles[item.snapshot] == "old"])
    pools = pool(old, spreads=spreads, margin=config.max_loss_nats, max_tokens=config.judged_tokens)
    chosen: dict[str, tuple[int, Pool | None]] = {}
    guards: list[Guard] = []
    for found in pools:
        guard, depths = chooser.choose(
            found.label,
            found.slices,
            budget=found.max_tokens,
            spread=spreads.get(found.domain, PRIOR_SPREAD),
            margin=config.max_loss_nats,
            alpha=config.alpha,
            is_guarded=found.is_guarded,
        )
        guards.append(guard)
        chosen |= {name: (depth, found) for name, depth in depths.items()}
    new = [name for name, item in items.items() if roles[item.snapshot] == "new"]
    gain: Guard | None = None
    if new:
        gain, depths = chooser.choose(
            ALL_NEW,
            new,
            budget=config.judged_tokens,
            spread=max(spreads.get(items[name].domain, PRIOR_SPREAD) for name in new),
            margin=config.min_gain_nats,
            alpha=config.alpha,
        )
        chosen |= {name: (depth, None) for name, depth in depths.items()}
    return Panel(
        slices=tuple(
            JudgedSlice(
                item=item,
                role=roles[item.snapshot],
                label=item.domain if found is None else found.label,
                is_guarded=found is None or found.is_guarded,
                units=chooser.units(name),
                depth=depth,
            )
            for name, item in items.items()
            if name in chosen
            for depth, found in [chosen[name]]
        ),
        guards=tuple(guards),
        new=gain,
    )


def roles_of(head: Head, new_snapshots: Sequence[str]) -> dict[str, Role]:
    """What each snapshot is to the candidate; held, refused and waiting ones are nothing."""
    roles: dict[str, Role] = {
        record.id: "old"
        for record in head.snapshots
        if record.state == "learned" or record.role == "reference"
    }
    for snapshot in new_snapshots:
        roles[snapshot] = "new"
    return roles


@dataclass(frozen=True, slots=True)
class _Chooser:
    """Takes samples of slices, whose units it reads when they are reached."""

    store: ObjectStore
    layout: Layout
    work_dir: Path
    keep: bool
    items: Mapping[str, SuiteSlice]
    read: dict[str, SliceUnits]

    def units(self, name: str) -> SliceUnits:
        if name not in self.read:
            item = self.items[name]
            found = read_units(self.store, self.layout, item, self.work_dir, keep=self.keep)
            self.read[name] = found
        return self.read[name]

    def choose(
        self,
        label: str,
        slices: Sequence[str],
        *,
        budget: int,
        spread: float,
        margin: float,
        alpha: float,
        is_guarded: bool = True,
    ) -> tuple[Guard, dict[str, int]]:
        depths, sizes = sample(
            slices,
            lambda name: self.units(name).units,
            max_tokens=budget,
            spread=spread,
            margin=margin,
        )
        guard = Guard(
            label=label,
            slices=tuple(slices),
            clusters=len(sizes.by_cluster),
            held_out_clusters=sum(self.items[name].clusters for name in slices),
            tokens=sizes.tokens,
            margin=margin,
            spread=spread,
            detectable=sizes.detectable(spread, alpha),
            is_guarded=is_guarded,
        )
        return guard, depths


def _old_slices(head: Head, items: Sequence[SuiteSlice]) -> list[OldSlice]:
    """Oldest first, as they came."""
    refresh = {record.id: number for number, record in enumerate(head.snapshots, start=1)}
    return sorted(
        (
            OldSlice(
                name=item.name,
                domain=item.domain,
                refresh=refresh[item.snapshot],
                clusters=item.clusters,
                tokens=item.tokens,
            )
            for item in items
        ),
        key=lambda item: (item.refresh, item.domain),
    )


def _spreads(
    store: ObjectStore, layout: Layout, head: Head, items: Sequence[SuiteSlice]
) -> dict[str, float]:
    """By domain, from what the last judged versions and their champions made of the same text."""
    judged = [record for record in head.versions if record.parent][-_RECENT_VERSIONS:]
    records = _records(store, layout, judged)
    scored = {unit.rpartition("/")[0] for record in records.values() for unit in record.nats}
    units = [
        (item.domain, found)
        for item in items
        if item_key(item) in scored and (found := stored_units(store, layout, item)) is not None
    ]
    spreads: dict[str, float] = {}
    for domain in {domain for domain, _ in units}:
        of_domain = [found for of, found in units if of == domain]
        spreads[domain] = spread_of(
            _both(records[version.version], records[version.parent], of_domain)
            for version in judged
            if version.parent
        )
    return spreads


def _records(
    store: ObjectStore, layout: Layout, judged: Sequence[VersionRecord]
) -> dict[str, Record]:
    names = {name for record in judged for name in (record.version, record.parent) if name}
    return {name: record_of(store, layout, name) for name in sorted(names)}


def _both(
    ours: Record, theirs: Record, units: Sequence[SliceUnits]
) -> tuple[list[DocumentScore], list[DocumentScore]]:
    """What two models made of the documents that both were scored on."""
    both: tuple[list[DocumentScore], list[DocumentScore]] = ([], [])
    for found in units:
        depth = min(ours.depth(found), theirs.depth(found))
        both[0].extend(ours.scores(found, depth))
        both[1].extend(theirs.scores(found, depth))
    return both
