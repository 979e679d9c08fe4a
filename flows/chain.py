"""The chain of versions: who came from whom, with which deltas, and who decided what."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from storage.head import Decision, Head, Verdict, VersionRecord
from storage.layout import Layout
from storage.manifest import load
from storage.objects import ObjectStore
from tasks.judge.verdict import DomainRow, VerdictReport
from tasks.reporting.page import verdict_key
from tasks.update_plan import UpdatePlan, load_plan

Action = Literal["promote", "reject", "rollback"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What a person decided on a version that was there."""

    action: Action
    head: int
    at: str
    """UTC, ISO 8601."""
    by: str
    reason: str
    to: str | None = None
    """The version that a rollback went back to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One version."""

    version: str
    update: str
    verdict: Verdict
    decision: Decision
    is_champion: bool
    """Now."""
    head: int
    """On which its verdict was committed, or its import."""
    at: str
    """UTC, ISO 8601."""
    by: str
    reason: str
    """The verdict in one sentence."""
    events: tuple[Event, ...] = ()
    """Oldest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """A difference, version minus ``against``, in nats per token: below 0 the version is better."""

    domain: str
    against: str
    difference: float | None
    """None where scores are not finite."""
    upper_bound: float | None
    """One-sided; None where the clusters of held-out text do not determine one."""
    confidence: float
    """Of the bound: 1 - alpha."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Another update whose checkpoint the training began with."""

    update: str
    version: str | None
    """That the update made; None when it was left before it was judged."""
    step: int
    mode: Literal["continue", "new_phase", "weights_only", "branch"]
    """``branch`` is a cool-down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """From the champion that a version was compared with to the version."""

    parent: str | None
    """None: the lineage had no version in use."""
    version: str
    gain: Delta | None
    """On all new data together."""
    worst_old: Delta | None
    """The guarded old domain whose loss rose most, or fell least."""
    tokens: int | None
    """Trained on, replay and what was taken over included."""
    origin: Origin | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """All versions of a lineage, in the order of their verdicts."""

    lineage: str
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    """One to each version that was trained."""


def read_chain(store: ObjectStore, layout: Layout, heads: Sequence[Head]) -> Chain:
    """The chain that ``heads`` tell, oldest first. What else is stored may be missing."""
    versions = heads[-1].versions if heads else ()
    plans: dict[str, UpdatePlan] = {}
    reports: dict[str, VerdictReport] = {}
    for record in versions:
        if store.exists(layout.plan(record.update)):
            plans[record.update] = load_plan(store, layout, record.update)
        key = verdict_key(layout, record.update, record.judged_on)
        if store.exists(key):
            reports[record.update] = load(store, key, VerdictReport)
    return chain_of(layout.lineage, heads, plans, reports)


def chain_of(
    lineage: str,
    heads: Sequence[Head],
    plans: Mapping[str, UpdatePlan],
    reports: Mapping[str, VerdictReport],
) -> Chain:
    """The chain that ``heads`` tell, oldest first and without a gap.

    Args:
        lineage: Its name.
        heads: All of them.
        plans: By update, as far as there are any.
        reports: By update, as far as there are any.
    """
    versions = heads[-1].versions if heads else ()
    named = {record.update: record.version for record in versions}
    events = _events(heads)
    return Chain(
        lineage=lineage,
        nodes=tuple(_node(heads, record, events.get(record.version, ())) for record in versions),
        edges=tuple(
            _edge(record, plans.get(record.update), reports.get(record.update), named)
            for record in versions
            if record.verdict != "IMPORTED"
        ),
    )


def _node(heads: Sequence[Head], record: VersionRecord, events: Sequence[Event]) -> Node:
    judged_on = heads[record.on_head - 1]
    # A decision writes its own reason over the verdict's.
    then = next(known for known in judged_on.versions if known.version == record.version)
    return Node(
        version=record.version,
        update=record.update,
        verdict=record.verdict,
        decision=record.decision,
        is_champion=record.version == heads[-1].champion,
        head=judged_on.number,
        at=judged_on.written_at,
        by=judged_on.by,
        reason=then.reason,
        events=tuple(events),
    )


def _events(heads: Sequence[Head]) -> dict[str, list[Event]]:
    """What people decided, by the version it was decided on."""
    events: dict[str, list[Event]] = {}
    for before, head in pairwise(heads):
        about: str | None
        match head.action:
            case "promote" as action:
                about, to = head.champion, None
            case "rollback" as action:
                about, to = before.champion, head.champion
            case "reject" as action:
                about, to = _rejected(before, head), None
            case _:
                continue
        if about is not None:
            event = Event(
                action=action,
                head=head.number,
                at=head.written_at,
                by=head.by,
                reason=head.reason,
                to=to,
            )
            events.setdefault(about, []).append(event)
    return events


def _rejected(before: Head, head: Head) -> str | None:
    known = {record.version: record.decision for record in before.versions}
    for record in head.versions:
        if record.decision == "rejected" and known.get(record.version) != "rejected":
            return record.version
    return None


def _edge(
    record: VersionRecord,
    plan: UpdatePlan | None,
    report: VerdictReport | None,
    named: Mapping[str, str],
) -> Edge:
    rows = report.rows if report else ()
    confidence = 1 - report.config.alpha if report else 0.0
    gain = next((row for row in rows if row.test == "gain"), None)
    worst = max((row for row in rows if row.test == "loss"), key=_rise, default=None)
    begun = plan.train.taken_over if plan else None
    return Edge(
        parent=record.parent,
        version=record.version,
        gain=_delta(gain, confidence) if gain else None,
        worst_old=_delta(worst, confidence) if worst else None,
        tokens=plan.total_tokens if plan else None,
        origin=Origin(
            update=begun.update, version=named.get(begun.update), step=begun.step, mode=begun.mode
        )
        if begun
        else None,
    )


def _rise(row: DomainRow) -> float:
    """A loss that is not a number is the worst."""
    return float("inf") if row.difference is None else row.difference


def _delta(row: DomainRow, confidence: float) -> Delta:
    return Delta(
        domain=row.domain,
        against=row.against,
        difference=row.difference,
        upper_bound=row.upper_bound,
        confidence=confidence,
    )
