"""Small SVG charts for the report: no script, no font, nothing from outside, all text escaped.

Colours come from the page's style sheet through classes, so that a chart follows light and dark.
Every mark that stands for a figure carries it in full precision in ``data-value``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tasks.judge.verdict import DomainRow
from tasks.reporting.svg import WIDTH, Area, grid, line, nice_ticks, svg, text

_MAX_POINTS = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One line of a chart."""

    name: str
    points: tuple[tuple[float, float], ...]
    """(tokens seen, value), ascending; values that are not finite are left out."""


def line_chart(title: str, curves: Sequence[Curve], *, height: int = 220) -> Markup:
    """Curves over tokens seen; empty when no curve has two points."""
    curves = [_thinned(curve) for curve in curves]
    curves = [curve for curve in curves if len(curve.points) > 1]
    if not curves:
        return Markup("")
    values = [value for curve in curves for _, value in curve.points]
    ticks = nice_ticks(min(values), max(values), 4)
    most_tokens = max(curve.points[-1][0] for curve in curves)
    area = Area(
        left=64,
        top=14,
        right=WIDTH - (150 if len(curves) > 1 else 16),
        bottom=height - 38,
        x=(0.0, most_tokens),
        y=(ticks[0], ticks[-1]),
    )
    parts = [grid(area, ticks)]
    parts += [
        text(area.at(tick, 0)[0], height - 20, _short(tick), "middle")
        for tick in nice_ticks(0.0, most_tokens, 5)
        if tick <= most_tokens
    ]
    parts.append(text((area.left + area.right) / 2, height - 4, "tokens seen", "middle"))
    labels = _spread([area.at(*curve.points[-1])[1] for curve in curves], 14)
    for index, (curve, label) in enumerate(zip(curves, labels, strict=True)):
        path = " ".join("{:.1f},{:.1f}".format(*area.at(x, y)) for x, y in curve.points)
        parts.append(
            Markup('<polyline class="curve c{}" data-value="{!r}" points="{}"/>').format(
                index % 6, curve.points[-1][1], path
            )
        )
        if len(curves) > 1:
            parts.append(text(area.right + 8, label + 4, curve.name, "start", f"t{index % 6}"))
    return svg(title, height, parts)


def interval_chart(title: str, rows: Sequence[DomainRow]) -> Markup:
    """Differences with their one-sided bounds against their margins, a line a requirement."""
    rows = [row for row in rows if row.margin is not None]
    if not rows:
        return Markup("")
    reach = [0.0]
    for row in rows:
        found = (row.difference, row.lower_bound, row.upper_bound, row.margin)
        reach += [value for value in found if value is not None]
    # Room to the right, so that what is beyond a margin can be seen.
    ticks = nice_ticks(min(reach), max(reach) + 0.1 * (max(reach) - min(reach)), 6)
    height = 30 * len(rows) + 52
    area = Area(
        left=190,
        top=8,
        right=WIDTH - 36,
        bottom=height - 44,
        x=(ticks[0], ticks[-1]),
        y=(float(len(rows)), 0.0),
    )
    parts: list[Markup] = []
    for tick in ticks:
        x = area.at(tick, 0)[0]
        kind = "zero" if tick == 0 else "grid"
        parts.append(line(x, area.top, x, area.bottom, kind))
        parts.append(text(x, height - 26, _signed(tick), "middle"))
    for index, row in enumerate(rows):
        parts += _interval(area, row, area.at(0, index + 0.5)[1])
    caption = (
        "candidate minus the other, nats per token: left is better, shaded is beyond the margin"
    )
    parts.append(text((area.left + area.right) / 2, height - 6, caption, "middle"))
    return svg(title, height, parts)


def _interval(area: Area, row: DomainRow, y: float) -> list[Markup]:
    """The line of one requirement: margin, interval, estimate, name."""
    assert row.margin is not None  # rows without one are left out
    margin = area.at(row.margin, 0)[0]
    state = "met" if row.passed else "violated" if row.violated else "open"
    name = row.domain if row.test != "cumulative" else f"{row.domain} vs {row.against}"
    parts = [
        Markup('<rect class="beyond" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="20"/>').format(
            margin, y - 10, area.right - margin
        ),
        line(margin, y - 10, margin, y + 10, "margin"),
        text(area.left - 10, y + 4, name if len(name) < 27 else name[:25] + "…", "end"),
    ]
    if row.difference is None:
        return parts
    # An end that the clusters do not bound runs to the edge.
    low = area.left if row.lower_bound is None else area.at(row.lower_bound, 0)[0]
    high = area.right if row.upper_bound is None else area.at(row.upper_bound, 0)[0]
    parts.append(line(low, y, high, y, f"interval {state}"))
    mark = Markup('<circle class="dot {}" cx="{:.1f}" cy="{:.1f}" r="5" data-value="{!r}"/>')
    parts.append(mark.format(state, area.at(row.difference, 0)[0], y, row.difference))
    return parts


def _thinned(curve: Curve) -> Curve:
    points = [point for point in curve.points if math.isfinite(point[1])]
    stride = max(1, math.ceil(len(points) / _MAX_POINTS))
    # Counted from the end, so that the last value is always shown.
    return Curve(name=curve.name, points=tuple(points[::-1][::stride][::-1]))


def _spread(positions: Sequence[float], gap: float) -> list[float]:
    """Positions moved down as far as needed for labels not to overlap."""
    placed = list(positions)
    lowest = -math.inf
    for index in sorted(range(len(placed)), key=lambda index: placed[index]):
        placed[index] = lowest = max(placed[index], lowest + gap)
    return placed


def _signed(value: float) -> str:
    return f"{value:+g}".replace("-", "\N{MINUS SIGN}") if value else "0"


def _short(tokens: float) -> str:
    """Tokens in thousands, millions or billions."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if tokens >= size:
            return f"{tokens / size:g}{letter}"
    return f"{tokens:g}"
