"""The training of an update on the report: its mixture as drawn, and its curves. Pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from tasks.reporting.charts import Curve, line_chart
from tasks.update_plan import UpdatePlan
from training.config import TrainPlan
from training.data.order import Order
from training.metrics import LOSS, LR, TOKENS_SEEN
from training.schedule import lr_at

_PLAN_POINTS = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class MixtureRow:
    """One stream of the mixture as planned and as drawn."""

    name: str
    is_replay: bool
    requested_share: float
    samples: int
    realised_share: float
    passes: float


def mixture_of(plan: UpdatePlan) -> list[MixtureRow]:
    """Every stream, as the order of samples itself draws from it."""
    train = plan.train
    drawn = Order(train.mixture, train.global_batch_samples).counts_before(train.num_steps).tolist()
    return [
        MixtureRow(
            name=stream.name,
            is_replay=stream.is_replay,
            requested_share=stream.parts / train.mixture.total_parts,
            samples=count,
            realised_share=count / max(1, sum(drawn)),
            passes=count / max(1, stream.samples),
        )
        for stream, count in zip(train.mixture.streams, drawn, strict=True)
    ]


def curves_of(metrics: Sequence[Mapping[str, Any]], train: TrainPlan) -> list[tuple[str, Markup]]:
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
