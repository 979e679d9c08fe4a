"""Small SVG charts for the report: no script, no font, nothing from outside, all text escaped.

Colours come from the page's style sheet through classes, so that a chart follows light and dark.
Every mark that stands for a figure carries it in full precision in ``data-value``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from tasks.judge.verdict import DomainRow

_WIDTH = 960
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
    area = _Area(
        left=64,
        top=14,
        right=_WIDTH - (150 if len(curves) > 1 else 16),
        bottom=height - 38,
        x=(0.0, most_tokens),
        y=(ticks[0], ticks[-1]),
    )
    parts = [_grid(area, ticks)]
    parts += [
        _text(area.at(tick, 0)[0], height - 20, _short(tick), "middle")
        for tick in nice_ticks(0.0, most_tokens, 5)
        if tick <= most_tokens
    ]
    parts.append(_text((area.left + area.right) / 2, height - 4, "tokens seen", "middle"))
    labels = _spread([area.at(*curve.points[-1])[1] for curve in curves], 14)
    for index, (curve, label) in enumerate(zip(curves, labels, strict=True)):
        path = " ".join("{:.1f},{:.1f}".format(*area.at(x, y)) for x, y in curve.points)
        parts.append(
            Markup('<polyline class="curve c{}" data-value="{!r}" points="{}"/>').format(
                index % 6, curve.points[-1][1], path
            )
        )
        if len(curves) > 1:
            parts.append(_text(area.right + 8, label + 4, curve.name, "start", f"t{index % 6}"))
    return _svg(title, height, parts)


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
    area = _Area(
        left=190,
        top=8,
        right=_WIDTH - 36,
        bottom=height - 44,
        x=(ticks[0], ticks[-1]),
        y=(float(len(rows)), 0.0),
    )
    parts: list[Markup] = []
    for tick in ticks:
        x = area.at(tick, 0)[0]
        kind = "zero" if tick == 0 else "grid"
        parts.append(_line(x, area.top, x, area.bottom, kind))
        parts.append(_text(x, height - 26, _signed(tick), "middle"))
    for index, row in enumerate(rows):
        parts += _interval(area, row, area.at(0, index + 0.5)[1])
    caption = (
        "candidate minus the other, nats per token: left is better, shaded is beyond the margin"
    )
    parts.append(_text((area.left + area.right) / 2, height - 6, caption, "middle"))
    return _svg(title, height, parts)


def nice_ticks(low: float, high: float, count: int) -> list[float]:
    """About ``count`` round numbers that enclose the interval, ascending, two at least."""
    if high - low < 1e-12 * max(1.0, abs(high)):
        low, high = low - 0.5 * (abs(low) or 1.0), high + 0.5 * (abs(high) or 1.0)
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Area:
    """The part of a chart inside its axes, in pixels, and the values at its edges."""

    left: float
    top: float
    right: float
    bottom: float
    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return (
            self.left + across * (self.right - self.left),
            self.bottom - up * (self.bottom - self.top),
        )


def _interval(area: _Area, row: DomainRow, y: float) -> list[Markup]:
    """The line of one requirement: margin, interval, estimate, name."""
    assert row.margin is not None  # rows without one are left out
    margin = area.at(row.margin, 0)[0]
    state = "met" if row.passed else "violated" if row.violated else "open"
    name = row.domain if row.test != "cumulative" else f"{row.domain} vs {row.against}"
    parts = [
        Markup('<rect class="beyond" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="20"/>').format(
            margin, y - 10, area.right - margin
        ),
        _line(margin, y - 10, margin, y + 10, "margin"),
        _text(area.left - 10, y + 4, name if len(name) < 27 else name[:25] + "…", "end"),
    ]
    if row.difference is None:
        return parts
    # An end that the clusters do not bound runs to the edge.
    low = area.left if row.lower_bound is None else area.at(row.lower_bound, 0)[0]
    high = area.right if row.upper_bound is None else area.at(row.upper_bound, 0)[0]
    parts.append(_line(low, y, high, y, f"interval {state}"))
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


def _grid(area: _Area, ticks: Sequence[float]) -> Markup:
    lines = [
        _line(area.left, area.at(0, tick)[1], area.right, area.at(0, tick)[1], "grid")
        + _text(area.left - 8, area.at(0, tick)[1] + 4, f"{tick:g}", "end")
        for tick in ticks
    ]
    return Markup("").join(lines)


def _svg(title: str, height: float, parts: Sequence[Markup]) -> Markup:
    return Markup(
        '<svg role="img" viewBox="0 0 {} {:.0f}" aria-label="{}"><title>{}</title>{}</svg>'
    ).format(_WIDTH, height, title, title, Markup("").join(parts))


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    mark = Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>')
    return mark.format(kind, x1, y1, x2, y2)


def _text(x: float, y: float, text: str, anchor: str, kind: str = "label") -> Markup:
    mark = Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>')
    return mark.format(kind, x, y, anchor, escape(text))


def _signed(value: float) -> str:
    return f"{value:+g}".replace("-", "\N{MINUS SIGN}") if value else "0"


def _short(tokens: float) -> str:
    """Tokens in thousands, millions or billions."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if tokens >= size:
            return f"{tokens / size:g}{letter}"
    return f"{tokens:g}"
