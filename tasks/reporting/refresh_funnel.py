"""From counts of documents to what a page shows of them: the funnel, its reasons, its languages.

Pure. Shares are of the documents read.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tasks.documents import printable
from tasks.drop_reasons import SHARES, STAGES, TAKEDOWN, stage_of
from tasks.reporting.refresh_charts import BarRow, Series, length_label
from tasks.reporting.refresh_facts import Bins, Group

_MOST_LANGUAGES, _MOST_LICENCES, _MOST_DOMAINS = 20, 20, 4
_RARE = {SHARES, TAKEDOWN}
_MOST_COLUMNS = 100
_LETTERS = {"month": 7, "year": 4, "decade": 3, "century": 2}
"""Of a date, that name it to this unit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FunnelRow:
    """What became of the documents of one domain, of one source, or of all."""

    name: str
    read: int
    dropped: Mapping[str, int]
    """Documents by stage; every stage is there."""
    held_out: int
    train: int
    train_tokens: int

    @property
    def kept(self) -> int:
        """Documents trained on or held out."""
        return self.held_out + self.train

    @property
    def stages(self) -> list[str]:
        """Those of every refresh, and the rare ones where they dropped something."""
        return [stage for stage in STAGES if stage not in _RARE or self.dropped[stage]]

    @property
    def kept_share(self) -> float:
        """Of the documents read."""
        return self.kept / self.read if self.read else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasonRow:
    """What one reason has cost."""

    reason: str
    stage: str
    documents: int
    share: float
    """Of the documents read."""
    domains: str
    """The domains that it hit most, with how many documents."""


def funnel_of(name: str, groups: Iterable[Group]) -> FunnelRow:
    """What became of these documents."""
    dropped: dict[str, int] = dict.fromkeys(STAGES, 0)
    kept: Counter[str] = Counter()
    read = tokens = 0
    for group in groups:
        read += group.documents
        if group.is_kept:
            kept[group.split] += group.documents
            tokens += group.tokens if group.split == "train" else 0
        else:
            dropped[stage_of(group.reason)] += group.documents
    return FunnelRow(
        name=name,
        read=read,
        dropped=dropped,
        held_out=kept["holdout"],
        train=kept["train"],
        train_tokens=tokens,
    )


def funnels_by(groups: Sequence[Group], key: Callable[[Group], str]) -> list[FunnelRow]:
    """A row for each domain, source, ... in alphabetical order."""
    names = sorted({key(group) for group in groups})
    return [funnel_of(name, [one for one in groups if key(one) == name]) for name in names]


def stage_bars(whole: FunnelRow, rejected: int) -> list[BarRow]:
    """The funnel: what each stage left of what the one before had left.

    ``rejected`` are the lines, rows and files that gave no document.
    """
    all_lines = whole.read + rejected
    lost = f", {rejected:,} rejected ({rejected / all_lines:.1%})" if rejected else ""
    note = f"{whole.read:,} documents{lost}"
    rows = [BarRow(label="read", kept=whole.read, dropped=rejected, note=note)]
    left = whole.read
    for stage in whole.stages:
        lost = whole.dropped[stage]
        left -= lost
        note = f"{left:,} left" + (f", {lost:,} dropped ({lost / whole.read:.1%})" if lost else "")
        rows.append(BarRow(label=f"after {stage}", kept=left, dropped=lost, note=note))
    return rows


def reasons_of(groups: Sequence[Group]) -> list[ReasonRow]:
    """Every reason by its stage, the most frequent of a stage first."""
    read = sum(group.documents for group in groups)
    found: dict[str, Counter[str]] = {}
    for group in groups:
        if group.reason:
            found.setdefault(group.reason, Counter())[group.domain] += group.documents
    rows = [
        ReasonRow(
            reason=reason,
            stage=stage_of(reason),
            documents=domains.total(),
            share=domains.total() / read,
            domains=_most(domains, _MOST_DOMAINS),
        )
        for reason, domains in found.items()
    ]
    return sorted(rows, key=lambda row: (STAGES.index(row.stage), -row.documents, row.reason))


def licence_bars(groups: Sequence[Group]) -> list[BarRow]:
    """Documents by licence, the most frequent first."""
    sides: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    tokens: Counter[str] = Counter()
    for group in groups:
        sides[group.is_kept][group.licence] += group.documents
        tokens[group.licence] += group.tokens if group.is_kept else 0
    return _bars(sides, _MOST_LICENCES, lambda name: f", {tokens[name]:,} tokens")


def language_bars(languages: Mapping[bool, Counter[str]]) -> list[BarRow]:
    """Documents by language, the most frequent first."""
    return _bars(languages, _MOST_LANGUAGES, lambda _: "")


def length_columns(bins: Mapping[bool, Bins]) -> tuple[list[str], list[Series]]:
    """Labels, and of kept and dropped documents the share of each bin that any lies in."""
    used = np.flatnonzero(bins[True] + bins[False])
    places = range(int(used[0]), int(used[-1]) + 1) if used.size else range(0)
    series = [
        Series(name=name, values=tuple((found[places] / found.sum()).tolist()))
        for name, found in (("kept", bins[True]), ("dropped", bins[False]))
        if found.sum()
    ]
    return [length_label(place) for place in places], series


def date_columns(dates: Mapping[str, int]) -> tuple[str, list[str], Series]:
    """Unit, labels and documents: by month if that is known of all, else by year, or coarser.

    Every month or year between the first and the last has a column, and there are not more than
    can be told apart.
    """
    known = Counter({date: count for date, count in dates.items() if date})
    for unit, letters in _LETTERS.items():
        short: Counter[str] = Counter()
        for date, count in known.items():
            short[date[:letters]] += count
        if not short or any(len(date) < letters for date in short):
            continue
        numbers = Counter({_number(date): count for date, count in short.items()})
        places = range(min(numbers), max(numbers) + 1)
        if len(places) <= _MOST_COLUMNS:
            values = tuple(float(numbers[place]) for place in places)
            labels = [_date(place, unit) for place in places]
            return unit, labels, Series(name="kept", values=values)
    return "", [], Series(name="kept", values=())


def _number(date: str) -> int:
    """Months since the year 0 for ``2024-05``, else the digits as they stand."""
    year, _, month = date.partition("-")
    return 12 * int(year) + int(month) - 1 if month else int(year)


def _date(place: int, unit: str) -> str:
    if unit == "month":
        return f"{place // 12:04d}-{place % 12 + 1:02d}"
    return f"{place:0{_LETTERS[unit]}d}".ljust(4, "0")


def _bars(
    sides: Mapping[bool, Counter[str]], most: int, more: Callable[[str], str]
) -> list[BarRow]:
    whole = sides[True] + sides[False]
    ranked = sorted(whole, key=lambda name: (-whole[name], name))
    rows = [
        BarRow(
            label=printable(name) or "unknown",
            kept=sides[True][name],
            dropped=sides[False][name],
            note=f"{sides[True][name]:,} of {whole[name]:,} kept{more(name)}",
        )
        for name in ranked[:most]
    ]
    rest = ranked[most:]
    if rest:
        kept = sum(sides[True][name] for name in rest)
        total = sum(whole[name] for name in rest)
        note = f"{kept:,} of {total:,} kept"
        label = f"{len(rest):,} more"
        rows.append(BarRow(label=label, kept=kept, dropped=total - kept, note=note))
    return rows


def _most(counts: Counter[str], most: int) -> str:
    ranked = sorted(counts, key=lambda name: (-counts[name], name))
    told = [f"{name} {counts[name]:,}" for name in ranked[:most]]
    return ", ".join(told + ([f"{len(ranked) - most} more"] if len(ranked) > most else []))
