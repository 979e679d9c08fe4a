"""Charts of a refresh: what each stage left, languages, lengths, dates.

Kept is the first colour of the page, dropped the second; nothing is told by colour alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tasks.reporting.svg import WIDTH, Area, grid, line, nice_ticks, svg, text

_ROW, _BAR = 26, 16
_MOST_LETTERS = 30
_LETTER = 6.8
"""Wide, on average."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BarRow:
    """One bar of two parts, and what stands behind it."""

    label: str
    kept: int
    dropped: int
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One row of columns, a value a place."""

    name: str
    values: tuple[float, ...]


def bar_chart(title: str, rows: Sequence[BarRow]) -> Markup:
    """A bar a row, from the left: what is kept, then what is dropped. Empty without rows."""
    most = max((row.kept + row.dropped for row in rows), default=0)
    if not most:
        return Markup("")
    height = _ROW * len(rows) + 34
    labels = [_short(row.label) for row in rows]
    area = Area(
        left=14 + _room(labels),
        top=30,
        right=WIDTH - 14 - _room([row.note for row in rows]),
        bottom=height - 4,
        x=(0, most),
        y=(1, 0),
    )
    parts = _legend(area.left, ("kept", "dropped"))
    for number, (row, label) in enumerate(zip(rows, labels, strict=True)):
        y = area.top + _ROW * number
        middle = area.at(row.kept, 0)[0]
        parts.append(text(area.left - 10, y + 13, label, "end"))
        parts.append(_rect("t0", area.left, y, middle - area.left, _BAR, row.kept))
        end = area.at(row.kept + row.dropped, 0)[0]
        parts.append(_rect("t1", middle, y, end - middle, _BAR, row.dropped))
        parts.append(text(end + 8, y + 13, row.note, "start"))
    return svg(title, height, parts)


def column_chart(
    title: str, labels: Sequence[str], series: Sequence[Series], *, axis: str, form: str
) -> Markup:
    """Columns side by side, a group a label. Empty when there is nothing to draw.

    Args:
        title: For who does not see it.
        labels: Of the groups, left to right; as many are written as fit.
        series: As many values each as there are labels.
        axis: What the labels are.
        form: How values are written at their axis.
    """
    most = max((value for one in series for value in one.values), default=0.0)
    if not most:
        return Markup("")
    height, ticks = 250, [tick for tick in nice_ticks(0.0, most, 4) if tick >= 0]
    count = len(labels)
    area = Area(
        left=70, top=30, right=WIDTH - 16, bottom=height - 42, x=(0, count), y=(0, ticks[-1])
    )
    parts = [grid(area, ticks, form)]
    if len(series) > 1:
        parts += _legend(area.left, [one.name for one in series])
    wide = 0.84 / len(series)
    label_every = max(1, -(-count * max(len(label) for label in labels) // 110))
    for place, label in enumerate(labels):
        for number, one in enumerate(series):
            left, top = area.at(place + 0.08 + wide * number, one.values[place])
            right = area.at(place + 0.08 + wide * (number + 1), 0)[0]
            kind, value = f"t{number}", one.values[place]
            parts.append(_rect(kind, left, top, right - left, area.bottom - top, value))
        if place % label_every == 0:
            parts.append(text(area.at(place + 0.5, 0)[0], height - 24, label, "middle"))
    parts.append(line(area.left, area.bottom, area.right, area.bottom, "zero"))
    parts.append(text((area.left + area.right) / 2, height - 6, axis, "middle"))
    return svg(title, height, parts)


def length_label(place: int) -> str:
    """The least length of a bin, ``2**place``: 512, 1k (1,024), 1M (1,048,576)."""
    power, letter = next(pair for pair in ((20, "M"), (10, "k"), (0, "")) if place >= pair[0])
    return f"{2 ** (place - power):,}{letter}"


def _room(texts: Sequence[str]) -> float:
    return _LETTER * max(map(len, texts))


def _legend(left: float, names: Sequence[str]) -> list[Markup]:
    parts: list[Markup] = []
    for number, name in enumerate(names):
        x = left + 110 * number
        parts.append(_rect(f"t{number}", x, 6, 10, 10, None))
        parts.append(text(x + 16, 15, name, "start"))
    return parts


def _rect(
    kind: str, x: float, y: float, width: float, height: float, value: float | None
) -> Markup:
    mark = Markup('<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"{}/>')
    told = Markup("") if value is None else Markup(' data-value="{!r}"').format(value)
    return mark.format(kind, x, y, max(0.0, width), max(0.0, height), told)


def _short(label: str) -> str:
    return (
        label
        if len(label) <= _MOST_LETTERS
        else label[: _MOST_LETTERS - 1] + "\N{HORIZONTAL ELLIPSIS}"
    )
