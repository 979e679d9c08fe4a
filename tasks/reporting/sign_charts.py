"""Charts of the signs beside a verdict: calibration, and drift of the weights by layer."""

from collections.abc import Mapping

from markupsafe import Markup

from tasks.reporting.svg import Area, grid, line, nice_ticks, svg, text
from tasks.scoring.calibration import Calibration

_WIDTH, _HEIGHT = 470, 280
_TICKS = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
_MAX_BARS = 80


def reliability_chart(candidate: Calibration | None, champion: Calibration | None) -> Markup:
    """Accuracy over confidence, a point a bin; on the dashed line a model is as sure as right.

    Empty without a candidate's calibration.
    """
    if candidate is None:
        return Markup("")
    area = Area(left=46, top=12, right=_WIDTH - 16, bottom=_HEIGHT - 42, x=(0, 1), y=(0, 1))
    parts = [grid(area, _TICKS), line(*area.at(0, 0), *area.at(1, 1), "ideal")]
    parts += [text(area.at(x, 0)[0], _HEIGHT - 24, f"{x:g}", "middle") for x in _TICKS]
    parts.append(text((area.left + area.right) / 2, _HEIGHT - 6, "confidence", "middle"))
    curves = [("candidate", candidate)] + ([("champion", champion)] if champion else [])
    for number, (name, calibration) in enumerate(curves):
        points = [area.at(found.confidence, found.accuracy) for found in calibration.bins]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(Markup('<polyline class="curve c{}" points="{}"/>').format(number, path))
        parts.append(text(area.left + 10, area.top + 16 + 16 * number, name, "start", f"t{number}"))
    return svg("Calibration", _HEIGHT, parts, width=_WIDTH)


def drift_chart(by_layer: Mapping[int, float | None]) -> Markup:
    """A bar a layer; of very deep models every so many-th. Empty without layers."""
    known = [(layer, change) for layer, change in sorted(by_layer.items()) if change is not None]
    known = known[:: max(1, -(-len(known) // _MAX_BARS))]
    if not known:
        return Markup("")
    ticks = nice_ticks(0.0, max(change for _, change in known), 4)
    count = len(known)
    area = Area(
        left=56,
        top=12,
        right=_WIDTH - 12,
        bottom=_HEIGHT - 42,
        x=(0, count),
        y=(max(0.0, ticks[0]), ticks[-1]),
    )
    parts = [grid(area, [tick for tick in ticks if tick >= 0], ".2%")]
    label_every = max(1, count // 8)
    for number, (layer, change) in enumerate(known):
        left, top = area.at(number + 0.15, change)
        right = area.at(number + 0.85, 0)[0]
        bar = Markup(
            '<rect class="bar" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" '
            'data-value="{!r}"/>'
        )
        parts.append(bar.format(left, top, right - left, area.bottom - top, change))
        if number % label_every == 0:
            parts.append(text((left + right) / 2, _HEIGHT - 24, str(layer), "middle"))
    parts.append(text((area.left + area.right) / 2, _HEIGHT - 6, "layer", "middle"))
    return svg("Drift of the weights by layer", _HEIGHT, parts, width=_WIDTH)
