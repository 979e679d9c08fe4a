"""The matrix of forgetting as fields with a shade, and as a picture that stands alone. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tasks.scoring.forgetting import ForgettingMatrix

_STEPS = (0.0, 0.25, 0.5, 1.0, 2.0)
_SHADES = ("#ffffff", "#fbeeee", "#f4d5d2", "#ebb5b0", "#df8d86", "#d0645b")
_ROWS = 40
"""Newest versions in the picture; the report's table has all."""
_COLUMNS = 24
_CELL = (92, 26)
_LEFT, _TOP = 130, 46


@dataclass(frozen=True, slots=True)
class Cell:
    """A field of the matrix: a loss and how much worse it is than the best of its column."""

    value: float | None
    heat: int
    """0 for the best, up to 5 for a loss of more than twice what one update may lose."""


def cells_of(matrix: ForgettingMatrix, allowed: float) -> list[list[Cell]]:
    """Cells by row, shaded by how far each is above the best of its column.

    Args:
        matrix: Of all versions.
        allowed: What one update may lose, in nats per token.
    """
    columns = [
        [row.nats_per_token[index] for row in matrix.rows] for index in range(len(matrix.slices))
    ]
    best = [
        min((value for value in column if value is not None), default=math.nan)
        for column in columns
    ]
    return [
        [
            Cell(value, _heat(value, lowest, allowed))
            for value, lowest in zip(row.nats_per_token, best, strict=True)
        ]
        for row in matrix.rows
    ]


def matrix_picture(matrix: ForgettingMatrix, allowed: float) -> str:
    """An SVG file of the newest versions and slices; "" without any.

    The same shades as in the report, the loss written into every field.
    """
    if not matrix.rows or not matrix.slices:
        return ""
    cells = [row[-_COLUMNS:] for row in cells_of(matrix, allowed)[-_ROWS:]]
    versions = [row.version for row in matrix.rows[-_ROWS:]]
    slices = matrix.slices[-_COLUMNS:]
    width = _LEFT + _CELL[0] * len(slices) + 16
    height = _TOP + _CELL[1] * len(versions) + 34
    parts = [
        Markup('<rect width="{}" height="{}" fill="#ffffff"/>').format(width, height),
        *_headings(slices),
        *(
            part
            for number, (version, row) in enumerate(zip(versions, cells, strict=True))
            for part in _row(version, row, _TOP + _CELL[1] * number)
        ),
        _text(
            _LEFT,
            height - 12,
            f"nats per token; darker: above the column's best, the two darkest by more than "
            f"{allowed:g}",
            "start",
        ),
    ]
    title = "Held-out loss of every version on every slice"
    return str(
        Markup(
            '<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {0} {1}" width="{0}" '
            'height="{1}" font-family="system-ui, sans-serif" font-size="12" fill="#1c2128">'
            "<title>{2}</title>{3}</svg>\n"
        ).format(width, height, title, Markup("").join(parts))
    )


def _heat(value: float | None, lowest: float, allowed: float) -> int:
    return 0 if value is None else sum(value - lowest > step * allowed for step in _STEPS)


def _headings(slices: Sequence[str]) -> list[Markup]:
    """The domain over the snapshot, at the right edge of each column."""
    parts: list[Markup] = []
    for number, name in enumerate(slices):
        right = _LEFT + _CELL[0] * (number + 1) - 8
        domain, _, snapshot = name.partition("@")
        parts.append(_text(right, _TOP - 24, _cut(domain), "end"))
        parts.append(_text(right, _TOP - 9, _cut(snapshot), "end"))
    return parts


def _row(version: str, row: Sequence[Cell], top: float) -> list[Markup]:
    parts = [_text(_LEFT - 10, top + 17, _cut(version, 18), "end")]
    for number, cell in enumerate(row):
        left = _LEFT + _CELL[0] * number
        field = Markup('<rect x="{}" y="{}" width="{}" height="{}" fill="{}"/>')
        parts.append(field.format(left, top, _CELL[0] - 1, _CELL[1] - 1, _SHADES[cell.heat]))
        shown = "\N{MIDDLE DOT}" if cell.value is None else f"{cell.value:.3f}"
        parts.append(_text(left + _CELL[0] - 8, top + 17, shown, "end"))
    return parts


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>').format(x, y, anchor, text)


def _cut(text: str, most: int = 13) -> str:
    return text if len(text) <= most else text[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"
