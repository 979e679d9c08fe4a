"""The page a reviewer reads: what changed, what got better or worse, what to do. One HTML file.

Nothing on it comes from outside: no script, no font, no image, so it opens without a network, today
and in ten years. Every figure of the verdict carries ``data-key``, its place in ``verdict.json``,
and ``data-value``, its full precision. The template engine escapes all text: names are data.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from storage.snapshots import SnapshotManifest
from tasks.judge.verdict import VerdictReport
from tasks.plan import UpdatePlan
from tasks.plan_text import describe_schedule
from tasks.reporting.charts import Curve, interval_chart, line_chart
from tasks.scoring.forgetting import ForgettingMatrix
from training.config import TrainPlan
from training.data.order import Order
from training.goodput import Goodput
from training.metrics import LOSS, LR, TOKENS_SEEN
from training.schedule import lr_at

_TEMPLATE = "report.html.jinja"
_PLAN_POINTS = 400
_MEANING = {
    "PASS": "The candidate is better on the new data and has kept the old: it becomes the champion "
    "without further ado, and one command takes that back.",
    "FAIL": "The candidate is refused and the champion stays. Its data stays pending; the next "
    "update takes it again, together with what is new.",
    "AMBIGUOUS": "The evidence does not decide, so a person does. Until then the champion stays "
    "and "
    "the data stays pending.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportInput:
    """Everything on the page."""

    plan: UpdatePlan
    verdict: VerdictReport
    matrix: ForgettingMatrix
    snapshots: tuple[SnapshotManifest, ...]
    """What the candidate was trained on for the first time."""
    metrics: Sequence[Mapping[str, Any]] = ()
    """One mapping a step, as ``training.metrics`` names them."""
    goodput: Goodput | None = None
    """Where the time of the training went, if that was kept."""
    code_version: str
    written_at: str
    """UTC, ISO 8601."""
    warnings: tuple[str, ...] = ()
    """What a person should know of the data: rejects, sources without a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _MixtureRow:
    """One stream of the mixture as planned and as drawn."""

    name: str
    is_replay: bool
    requested_share: float
    samples: int
    realised_share: float
    passes: float


@dataclass(frozen=True, slots=True)
class _Cell:
    """A field of the matrix: a loss and how much worse it is than the best of its column."""

    value: float | None
    heat: int
    """0 for the best, up to 5 for a loss of more than twice what one update may lose."""


def render(page: ReportInput) -> str:
    """The page as HTML. Pure: the same input gives the same bytes."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    rows = page.verdict.rows
    return environment.get_template(_TEMPLATE).render(
        figure=_figure,
        data=_data,
        page=page,
        plan=page.plan,
        verdict=page.verdict,
        meaning=_MEANING[page.verdict.verdict],
        schedule=describe_schedule(page.plan.train.schedule),
        mixture=_mixture(page.plan),
        matrix=_matrix(page.matrix, page.verdict.config.max_loss_nats),
        gain_chart=interval_chart(
            "Gain on the new data", [row for row in rows if row.role == "new"]
        ),
        loss_chart=interval_chart(
            "Change on old domains", [row for row in rows if row.role == "old"]
        ),
        curves=_curves(page.metrics, page.plan.train),
        actions=_actions(page.verdict),
    )


def _figure(value: float | None, key: str, form: str = ".3f") -> Markup:
    """A figure of the verdict: rounded for the eye, whole in ``data-value``."""
    if value is None:
        return Markup('<span class="none" data-key="{}" data-value="null">n/a</span>').format(key)
    # ``or 0``: minus zero is shown as zero.
    shown = format(value or 0, form).replace("-", "\N{MINUS SIGN}")
    return Markup('<span data-key="{}" data-value="{}">{}</span>').format(
        key, json.dumps(value), shown
    )


def _data(value: float, form: str = ",") -> Markup:
    """A figure that is not the verdict's: rounded for the eye, whole in ``data-value``."""
    return Markup('<span data-value="{}">{}</span>').format(json.dumps(value), format(value, form))


def _mixture(plan: UpdatePlan) -> list[_MixtureRow]:
    train = plan.train
    drawn = Order(train.mixture, train.global_batch_samples).counts_before(train.num_steps).tolist()
    return [
        _MixtureRow(
            name=stream.name,
            is_replay=stream.is_replay,
            requested_share=stream.parts / train.mixture.total_parts,
            samples=count,
            realised_share=count / max(1, sum(drawn)),
            passes=count / max(1, stream.samples),
        )
        for stream, count in zip(train.mixture.streams, drawn, strict=True)
    ]


def _matrix(matrix: ForgettingMatrix, allowed: float) -> list[list[_Cell]]:
    """Cells by row, coloured by how far each is above the best of its column."""
    columns = [
        [row.nats_per_token[index] for row in matrix.rows] for index in range(len(matrix.slices))
    ]
    best = [
        min((value for value in column if value is not None), default=math.nan)
        for column in columns
    ]
    return [
        [
            _cell(value, lowest, allowed)
            for value, lowest in zip(row.nats_per_token, best, strict=True)
        ]
        for row in matrix.rows
    ]


def _cell(value: float | None, lowest: float, allowed: float) -> _Cell:
    steps = (0.0, 0.25, 0.5, 1.0, 2.0)
    heat = 0 if value is None else sum(value - lowest > step * allowed for step in steps)
    return _Cell(value, heat)


def _actions(verdict: VerdictReport) -> list[tuple[str, str]]:
    """What a person may want to do, each with the command for it."""
    promote = f'perennial promote {verdict.candidate} --reason "..."'
    if verdict.verdict == "PASS":
        return [("Go back", 'perennial rollback --reason "..."')]
    if verdict.verdict == "FAIL":
        return [("Publish it all the same", promote)]
    return [
        ("Publish it", promote),
        ("Turn it down", f'perennial reject {verdict.candidate} --reason "..."'),
        ("Go back afterwards", 'perennial rollback --reason "..."'),
    ]


def _curves(metrics: Sequence[Mapping[str, Any]], train: TrainPlan) -> list[tuple[str, Markup]]:
    """Titles and charts over tokens seen: loss, loss by domain, learning rate; those there are."""
    names = sorted({name for step in metrics for name in step if name.startswith(f"{LOSS}/")})
    domains = [_curve(metrics, name, name.removeprefix(f"{LOSS}/")) for name in names]
    charts = [
        ("Training loss, nats per token", line_chart("Training loss", [_curve(metrics, LOSS)])),
        ("Training loss by domain, nats per token", line_chart("Loss by domain", domains)),
        ("Learning rate", line_chart("Learning rate", _rates(metrics, train), height=170)),
    ]
    return [(title, chart) for title, chart in charts if chart]


def _rates(metrics: Sequence[Mapping[str, Any]], train: TrainPlan) -> list[Curve]:
    """The learning rate as planned, and as taken; batches that were passed over add no tokens."""
    taken = _curve(metrics, LR, "taken")
    if not taken.points:
        return []
    batch = train.global_batch_tokens
    planned = [
        (float(step * batch), lr_at(step * batch, train.schedule))
        for step in range(1, train.num_steps + 1, max(1, train.num_steps // _PLAN_POINTS))
    ]
    return [Curve(name="planned", points=tuple(planned)), taken]


def _curve(metrics: Sequence[Mapping[str, Any]], metric: str, name: str = "") -> Curve:
    points = [
        (float(step[TOKENS_SEEN]), float(step[metric]))
        for step in metrics
        if step.get(metric) is not None and math.isfinite(float(step[metric]))
    ]
    return Curve(name=name, points=tuple(points))
