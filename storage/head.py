"""The chain of heads: immutable numbered states of a lineage. Creating the next one is the commit.

Reading and writing the chain is here; what an event makes of a state is in ``transitions.py``
and ``taking_back.py``.
"""

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

from storage.errors import (
    AlreadyExistsError,
    CorruptError,
    HeadMovedError,
    LeaseLostError,
    NotFoundError,
)
from storage.layout import Layout
from storage.manifest import canonical_json, load, publish
from storage.objects import ObjectStore, probe

logger = logging.getLogger(__name__)

SnapshotState = Literal["pending", "learned", "held", "refused"]
SnapshotRole = Literal["new", "reference"]
Verdict = Literal["PASS", "FAIL", "AMBIGUOUS", "IMPORTED"]
Decision = Literal["published", "refused", "awaiting", "rejected", "rolled_back", "superseded"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotRecord:
    """A snapshot and what the lineage's history made of it."""

    id: str
    state: SnapshotState
    role: SnapshotRole = "new"
    """``reference``: stands for what an imported base model must not forget; learned from the
    start."""
    reason: str = ""
    """Why it is held or refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionRecord:
    """One judged candidate, or an imported base model."""

    version: str
    """``<number>-<first 8 of the update id>``; the model lies under ``models/<version>/``."""
    update: str
    """Update id; for an imported base the identity of the import."""
    verdict: Verdict
    decision: Decision
    parent: str | None
    """The champion that it was compared with."""
    trunk: str | None
    """Prefix of the checkpoint that an update after this one continues from."""
    snapshots: tuple[str, ...]
    """New snapshots that it was trained on; judged again, those that nobody learned meanwhile."""
    replay: str | None
    """Replay version that it was trained with."""
    on_head: int
    """Head on which the verdict was committed; a rollback goes back to the state before this
    version's publication."""
    published_on_head: int | None = None
    """Head that made it champion."""
    reason: str = ""
    """Why a person decided as they did, or the verdict in one sentence."""
    remedy: str = ""
    """How it was repaired, for people, such as ``interpolation, weight 0.4``; "" for a candidate
    as it was trained."""
    remedy_of: str | None = None
    """The version whose failure it repairs, which was trained on the same new snapshots."""
    merged_from: tuple[str, ...] = ()
    """Versions whose weights it is made of; empty when it was trained. What it has seen is in the
    ledgers of their updates, it has none of its own."""
    judged_on: int | None = None
    """Head whose champion and suite it was judged on again; None: its first verdict stands."""
    takedowns: tuple[str, ...] = ()
    """By which documents were taken down that it has seen, itself or through what it grew from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """State ``number`` of a lineage."""

    lineage: str
    number: int
    action: str
    """What was done: init, refresh, update, import, rejudge, promote, reject, rollback, unhold,
    forget."""
    by: str
    """Who: user@host, or the flow run."""
    reason: str
    written_at: str
    """UTC, ISO 8601; for people, no decision depends on it."""
    lease_token: int
    """Fencing token of the writer's lease; never decreases along the chain. 0 for actions that
    need no lease."""
    champion: str | None = None
    """Model version in use."""
    trunk: str | None = None
    """Prefix of the checkpoint that the next update continues from; None: the champion's own
    weights."""
    replay: str | None = None
    suite: str | None = None
    tokenizer: str | None = None
    """Prefix of the lineage's tokenizer."""
    marks: str | None = None
    """Key of the consumed marks: which source objects were read, with size and entity tag."""
    snapshots: tuple[SnapshotRecord, ...] = ()
    """In the order in which they were minted."""
    versions: tuple[VersionRecord, ...] = ()
    """In the order in which they were judged."""
    takedowns: tuple[str, ...] = ()
    """In the order in which they were done."""


def next_head(
    parent: Head | None,
    *,
    action: str,
    by: str,
    reason: str = "",
    written_at: str | None = None,
    **changes: Any,
) -> Head:
    """The state after ``parent``, with ``changes`` to its fields; everything else stays.

    Without a parent it is head 1, and ``changes`` must hold ``lineage``. The lease token is the
    parent's unless given, so an action that needs no lease never lowers it.
    """
    told: dict[str, Any] = {
        "action": action,
        "by": by,
        "reason": reason,
        "written_at": written_at or datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if parent is None:
        return Head(number=1, **{"lease_token": 0, **changes}, **told)
    return replace(parent, number=parent.number + 1, **told, **changes)


def read_head(store: ObjectStore, layout: Layout) -> Head | None:
    """The newest head, None for a lineage that has none yet.

    The hint only says where to start looking: it may be missing, garbled, behind or ahead.
    """
    number = _hinted_number(store, layout)
    if number == 0 or not store.exists(layout.head(number)):
        number = max(_numbers(store, layout), default=0)
    while store.exists(layout.head(number + 1)):
        number += 1
    return read_head_number(store, layout, number) if number else None


def read_head_number(store: ObjectStore, layout: Layout, number: int) -> Head:
    """Head ``number``.

    Raises:
        NotFoundError: The chain is not that long.
        CorruptError: It was altered.
    """
    key = layout.head(number)
    head = load(store, key, Head)
    if (head.lineage, head.number) != (layout.lineage, number):
        raise CorruptError(
            f"{key} says it is head {head.number} of {head.lineage}, expected head {number} of "
            f"{layout.lineage}; it was copied or altered, restore it from a copy"
        )
    return head


def history(store: ObjectStore, layout: Layout) -> list[Head]:
    """The whole chain, oldest first.

    Raises:
        CorruptError: A head in the middle is missing or altered.
    """
    newest = read_head(store, layout)
    if newest is None:
        return []
    try:
        older = [read_head_number(store, layout, n) for n in range(1, newest.number)]
    except NotFoundError as error:
        raise CorruptError(
            f"the chain of heads of {layout.lineage} has a gap below head {newest.number}: "
            f"{error}; restore it from a copy"
        ) from error
    return [*older, newest]


def commit(store: ObjectStore, layout: Layout, head: Head) -> None:
    """Make ``head`` the newest state. Of racing writers one wins.

    A repeated call with the same head succeeds, ``written_at`` included: keep the value, do not
    build it again. A process that died does not have the value any more; its successor decides by
    looking at the newest head whether the change is in it (``commit_change`` with a ``change`` that
    returns the head it was given).

    Raises:
        HeadMovedError: Another head of that number exists.
        LeaseLostError: The lease token is lower than the parent's: a newer holder has written.
        ValueError: There is no parent, or the head is of another lineage.
    """
    if head.lineage != layout.lineage:
        raise ValueError(
            f"cannot commit a head of {head.lineage} to {layout.lineage}; build it on its parent"
        )
    if head.number == 1:
        probe(store)
    else:
        _check_parent(store, layout, head)
    try:
        publish(store, layout.head(head.number), head)
    except AlreadyExistsError as error:
        raise HeadMovedError(
            f"somebody else committed head {head.number} of {layout.lineage} before this "
            f"{head.action}; read the new head and decide again"
        ) from error
    store.put(layout.head_hint, canonical_json({"number": head.number}))


def commit_change(
    store: ObjectStore,
    layout: Layout,
    change: Callable[[Head | None], Head],
    *,
    expect: Callable[[Head | None], None] | None = None,
) -> Head:
    """Commit ``change(newest head)``, again on the newer head when somebody was faster; returns it.

    ``change`` is pure and may be called several times. It returns the head it was given when the
    change is in it already, which commits nothing: that is what makes a retry after a crash safe.
    ``expect`` and ``change`` raise HeadMovedError when the newest head no longer allows the change
    (trunk or champion moved); that ends the attempt.
    """
    while True:
        newest = read_head(store, layout)
        if expect is not None:
            expect(newest)
        head = change(newest)
        if head == newest:
            return head
        try:
            commit(store, layout, head)
        except HeadMovedError:
            logger.info("head %d of %s was taken; deciding again", head.number, layout.lineage)
        else:
            return head


def _check_parent(store: ObjectStore, layout: Layout, head: Head) -> None:
    try:
        parent = read_head_number(store, layout, head.number - 1)
    except NotFoundError as error:
        raise ValueError(
            f"cannot commit head {head.number} of {layout.lineage}: head {head.number - 1} does "
            "not exist; build it with next_head from the newest head"
        ) from error
    if head.lease_token < parent.lease_token:
        raise LeaseLostError(
            f"cannot commit head {head.number} of {layout.lineage} under lease token "
            f"{head.lease_token}: {parent.by} wrote head {parent.number} under token "
            f"{parent.lease_token}, so this lease was taken over; stop and start again"
        )


def _hinted_number(store: ObjectStore, layout: Layout) -> int:
    try:
        number = json.loads(store.get(layout.head_hint))["number"]
    except (NotFoundError, ValueError, KeyError, TypeError):
        return 0
    return number if type(number) is int and number > 0 else 0


def _numbers(store: ObjectStore, layout: Layout) -> Iterator[int]:
    for info in store.list(layout.heads):
        name = info.key.removeprefix(f"{layout.heads}/").removesuffix(".json")
        if name.isdecimal():
            yield int(name)
