"""Where the wall time of a run went: named buckets that add up to it, across lives and kills.

Every life of the run's workers leaves two small objects, when it begins and when it ends; one that
was killed leaves the first alone. Together with the rows of the metric journal they tile the time
from the first wish to train to the last life's end. Needs no torch.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from infra.progress import duration
from storage.errors import AlreadyExistsError, NotFoundError
from storage.layout import Layout
from storage.manifest import load, readable_json
from storage.objects import ObjectStore
from training.metrics import (
    DATA_WAIT_FRACTION,
    LIFE,
    SAVE_SECONDS,
    STEP,
    STEP_SECONDS,
    TIME,
    read_every_row,
)

_SUFFIX = "_seconds"


@dataclass(frozen=True, slots=True, kw_only=True)
class LifeBegun:
    """The begin of a life, as ``updates/<id>/lives/<number>-begun.json`` has it."""

    number: int
    """As ``training.checkpoint.run_life`` counts."""
    asked_at: float
    """When this life was wished for, seconds since the epoch: processes, imports and Ray follow."""
    began_at: float
    """When its first worker was there, before it looked for anything to go on from."""
    restore_seconds: float
    """Reading weights and moments; 0 when they were drawn from the seed."""
    first_step: int
    """Steps taken before."""
    num_workers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LifeOver:
    """The end of a life that was not killed, as ``<number>-ended.json`` has it."""

    number: int
    ended_at: float
    """When its last checkpoint was saved, seconds since the epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Goodput:
    """The wall time of a run by what it was spent on, in seconds, none below 0."""

    productive_seconds: float
    """Steps that the result is made of, with what is looked at and written down after each."""
    start_seconds: float
    """Processes, imports, Ray, building the model, up to the first step of every life."""
    data_seconds: float
    """Waiting for batches."""
    save_seconds: float
    """Waiting for checkpoints: in the steps, and for the last one of a life."""
    restore_seconds: float
    """Reading weights and moments to go on from."""
    lost_seconds: float
    """Steps that were taken again after a kill or a rewind, and down time between two lives."""

    @property
    def wall_seconds(self) -> float:
        """From the first wish to train to the end: the sum of all buckets."""
        return sum(self.by_bucket().values())

    @property
    def productive_share(self) -> float:
        """Of the wall time, 0 to 1."""
        return self.productive_seconds / self.wall_seconds if self.wall_seconds else 0.0

    def by_bucket(self) -> dict[str, float]:
        """Seconds by the bucket's name."""
        return {field.name.removesuffix(_SUFFIX): getattr(self, field.name) for field in FIELDS}

    def figures(self) -> dict[str, float]:
        """The share and all buckets by name, for machines."""
        return {"productive_share": self.productive_share, **asdict(self)}

    def in_words(self) -> str:
        """One line for people, the largest losses first; without what took no second."""
        lost = sorted(self.by_bucket().items(), key=lambda bucket: -bucket[1])
        named = [
            f"{name} {duration(seconds)}"
            for name, seconds in lost
            if name != "productive" and seconds >= 1
        ]
        worked = f"{duration(self.productive_seconds)} of {duration(self.wall_seconds)}"
        more = f"; {', '.join(named)}" if named else ""
        return f"goodput {self.productive_share:.0%}: productive {worked}{more}"


FIELDS = fields(Goodput)


def goodput(
    rows: Iterable[dict[str, Any]], lives: Iterable[LifeBegun], ends: Iterable[LifeOver] = ()
) -> Goodput | None:
    """Account for the time of a run; None when its rows do not say in which life they were written.

    Whatever the clocks of several machines say, no second counts twice or below 0, and the buckets
    add up to the time from the first life's wish to the last thing that is known of the run.

    Args:
        rows: Of the journal, those too of steps that were taken again; in any order.
        lives: Those that are on record, in any order. One that is not begins with its first row.
        ends: Of those that were not killed.
    """
    rows_by_life = _by_life(rows)
    if 0 in rows_by_life:
        return None
    known = {life.number: life for life in lives}
    for number, written in rows_by_life.items():
        known.setdefault(number, _made_up(number, written[0]))
    if not known:
        return None
    ended_at = {end.number: end.ended_at for end in ends}
    order = [known[number] for number in sorted(known)]
    account = _Account(order[0].asked_at)
    for index, life in enumerate(order):
        later = order[index + 1 :]
        account.add_life(
            life,
            rows_by_life.get(life.number, []),
            ended_at=ended_at.get(life.number),
            # What an older life still does when a newer one has begun is for nothing.
            until=min((next_.began_at for next_ in later), default=math.inf),
            kept_steps=min((next_.first_step for next_ in later), default=math.inf),
        )
    return account.closed()


def record_begin(store: ObjectStore, layout: Layout, update: str, life: LifeBegun) -> None:
    """Put the begin of a life on record. Safe to retry."""
    store.put_if_absent(f"{layout.lives(update)}/{life.number}-begun.json", readable_json(life))


def record_end(store: ObjectStore, layout: Layout, update: str, life: LifeOver) -> None:
    """Put the end of a life on record. Safe to retry."""
    store.put_if_absent(f"{layout.lives(update)}/{life.number}-ended.json", readable_json(life))


def read_lives(
    store: ObjectStore, layout: Layout, update: str
) -> tuple[list[LifeBegun], list[LifeOver]]:
    """What lives of a run have left, by their numbers."""
    begun: list[LifeBegun] = []
    ended: list[LifeOver] = []
    for info in store.list(layout.lives(update)):
        if info.key.endswith("-begun.json"):
            begun.append(load(store, info.key, LifeBegun))
        else:
            ended.append(load(store, info.key, LifeOver))
    return sorted(begun, key=lambda life: life.number), ended


def settle(store: ObjectStore, layout: Layout, update: str) -> Goodput | None:
    """The account of a run that is over, made and stored at the first call. Safe to retry.

    Returns:
        None for a run of a version that kept no such account.
    """
    known = settled(store, layout, update)
    if known is not None:
        return known
    begun, ended = read_lives(store, layout, update)
    # Without a record there is nothing to account for, and no need to read a long journal.
    rows = read_every_row(store, layout.metrics(update)) if begun else ()
    found = goodput(rows, begun, ended)
    if found is not None:
        try:
            store.put_if_absent(layout.goodput(update), readable_json(found))
        except AlreadyExistsError:
            return settled(store, layout, update)
    return found


def settled(store: ObjectStore, layout: Layout, update: str) -> Goodput | None:
    """What ``settle`` has stored; None when it did not yet."""
    try:
        return load(store, layout.goodput(update), Goodput)
    except NotFoundError:
        return None


class _Account:
    """Spends the time of a run from its beginning on; never goes back."""

    def __init__(self, begins_at: float) -> None:
        self._now = begins_at
        self._seconds = dict.fromkeys((field.name for field in FIELDS), 0.0)

    def add_life(
        self,
        life: LifeBegun,
        rows: Sequence[dict[str, Any]],
        *,
        ended_at: float | None,
        until: float,
        kept_steps: float,
    ) -> None:
        """All that is known of one life, up to the time ``until``."""
        self._spend("lost", life.asked_at, until)
        self._spend("start", life.began_at, until)
        self._spend("restore", self._now + life.restore_seconds, until)
        for index, row in enumerate(rows):
            if index == 0:
                self._spend("start", row[TIME] - row[STEP_SECONDS], until)
            if row[STEP] > kept_steps:
                self._spend("lost", row[TIME], until)
                continue
            at = min(row[TIME], until)
            self._spend("data", self._now + row[DATA_WAIT_FRACTION] * row[STEP_SECONDS], at)
            self._spend("save", self._now + row.get(SAVE_SECONDS, 0.0), at)
            self._spend("productive", at, until)
        if ended_at is not None:
            is_kept = not rows or rows[-1][STEP] <= kept_steps
            self._spend("save" if is_kept else "lost", ended_at, until)

    def closed(self) -> Goodput:
        return Goodput(**self._seconds)

    def _spend(self, bucket: str, to: float, until: float) -> None:
        to = min(to, until)
        if to > self._now:
            self._seconds[bucket + _SUFFIX] += to - self._now
            self._now = to


def _by_life(rows: Iterable[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    """Rows by the life that wrote them, in the order of their steps, each once."""
    found: dict[int, dict[int, dict[str, Any]]] = {}
    for row in rows:
        # A version that kept no account wrote no life either.
        found.setdefault(row.get(LIFE, 0), {})[row[STEP]] = row
    return {life: [by_step[step] for step in sorted(by_step)] for life, by_step in found.items()}


def _made_up(number: int, first: dict[str, Any]) -> LifeBegun:
    """The begin of a life of which nothing but rows is left."""
    began_at = first[TIME] - first[STEP_SECONDS]
    return LifeBegun(
        number=number,
        asked_at=began_at,
        began_at=began_at,
        restore_seconds=0.0,
        first_step=first[STEP] - 1,
        num_workers=0,
    )
