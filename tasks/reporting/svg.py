"""What the charts are drawn with: SVG by hand, all text escaped, colours by class."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH = 960
"""Of a chart as wide as the page, in the units of its view box."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Area:
    """The part of a chart inside its axes, in pixels, and the values at its edges."""

    left: float
    top: float
    right: float
    bottom: float
    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a pair of values lies, in pixels."""
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return (
            self.left + across * (self.right - self.left),
            self.bottom - up * (self.bottom - self.top),
        )


def nice_ticks(low: float, high: float, count: int) -> list[float]:
    """About ``count`` round numbers that enclose the interval, ascending, two at least."""
    if high - low < 1e-12 * max(1.0, abs(high)):
        low, high = low - 0.5 * (abs(low) or 1.0), high + 0.5 * (abs(high) or 1.0)
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def grid(area: Area, ticks: Sequence[float], form: str = "g") -> Markup:
    """Level lines with their values to the left."""
    lines = [
        line(area.left, area.at(0, tick)[1], area.right, area.at(0, tick)[1], "grid")
        + text(area.left - 8, area.at(0, tick)[1] + 4, format(tick, form), "end")
        for tick in ticks
    ]
    return Markup("").join(lines)


def svg(title: str, height: float, parts: Sequence[Markup], *, width: float = WIDTH) -> Markup:
    """The drawing, which says in ``title`` what it shows to those who do not see it."""
    return Markup(
        '<svg role="img" viewBox="0 0 {} {:.0f}" aria-label="{}"><title>{}</title>{}</svg>'
    ).format(width, height, title, title, Markup("").join(parts))


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    """A straight line of the class ``kind``."""
    mark = Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>')
    return mark.format(kind, x1, y1, x2, y2)


def text(x: float, y: float, words: str, anchor: str, kind: str = "label") -> Markup:
    """A line of words; ``anchor`` is ``start``, ``middle`` or ``end``."""
    mark = Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>')
    return mark.format(kind, x, y, anchor, escape(words))
