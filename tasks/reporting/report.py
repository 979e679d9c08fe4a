"""The page a reviewer reads: what changed, what got better or worse, what to do. One HTML file.

Nothing on it comes from outside: no script, no font, no image, so it opens without a network, today
and in ten years. Every figure of the verdict carries ``data-key``, its place in ``verdict.json``,
and ``data-value``, its full precision. The template engine escapes all text: names are data.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from storage.snapshots import SnapshotManifest
from tasks.judge.health import CanarySlice
from tasks.judge.numbers import Numbers
from tasks.judge.verdict import VerdictReport
from tasks.plan_text import describe_schedule
from tasks.reporting.card import card_of
from tasks.reporting.charts import interval_chart
from tasks.reporting.matrix import cells_of
from tasks.reporting.sign_charts import drift_chart, reliability_chart
from tasks.reporting.templates import data, environment
from tasks.reporting.training_view import curves_of, mixture_of
from tasks.scoring.forgetting import ForgettingMatrix
from tasks.update_plan import UpdatePlan
from training.goodput import Goodput

_TEMPLATE = "report.html.jinja"
_WRITING_ROWS = (
    ("Repeated 2-grams", "rep_2", ".1%"),
    ("Repeated 4-grams", "rep_4", ".1%"),
    ("Repeated 8-grams", "rep_8", ".1%"),
    ("Continuations that are loops", "looping_share", ".0%"),
    ("Came to the end of the text", "end_share", ".0%"),
    ("Empty", "empty_share", ".0%"),
    ("Mean tokens", "mean_tokens", ".1f"),
)
"""Title, field of ``Writing`` and how it is shown."""


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
    always_ask: bool = False
    """A PASS waits for a person too."""


def render(page: ReportInput) -> str:
    """The page as HTML. Pure: the same input gives the same bytes."""
    rows = page.verdict.rows
    numbers = page.verdict.numbers or Numbers()
    return (
        environment()
        .get_template(_TEMPLATE)
        .render(
            figure=_figure,
            data=data,
            page=page,
            plan=page.plan,
            verdict=page.verdict,
            meaning=_meaning(page),
            schedule=describe_schedule(page.plan.train.schedule),
            card=card_of(page.verdict, page.plan, domains=_domains(page), goodput=page.goodput),
            guards=([page.plan.gain] if page.plan.gain else []) + list(page.plan.guards),
            numbers=numbers,
            canary_worst=_worst_of_canary(page.verdict),
            writing_rows=_WRITING_ROWS,
            reliability_chart=reliability_chart(numbers.calibration, numbers.champion_calibration),
            drift_chart=drift_chart(numbers.drift.by_layer if numbers.drift else {}),
            mixture=mixture_of(page.plan),
            matrix=cells_of(page.matrix, page.verdict.config.max_loss_nats),
            gain_chart=interval_chart(
                "Gain on the new data", [row for row in rows if row.role == "new"]
            ),
            loss_chart=interval_chart(
                "Change on old domains", [row for row in rows if row.role == "old"]
            ),
            curves=curves_of(page.metrics, page.plan.train),
            actions=_actions(page),
        )
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


def _domains(page: ReportInput) -> list[str]:
    """Of the new data, each once."""
    found = (piece.domain for snapshot in page.snapshots for piece in snapshot.domains)
    return list(dict.fromkeys(found))


def _worst_of_canary(verdict: VerdictReport) -> CanarySlice | None:
    """The slice with the highest ratio; None without any."""
    canary = verdict.health.canary
    found = [item for item in canary.slices if item.perplexity_ratio is not None] if canary else []
    return max(found, key=lambda item: item.perplexity_ratio or 0.0, default=None)


def _meaning(page: ReportInput) -> str:
    """What the verdict does, for who has to act on it."""
    verdict = page.verdict
    repaired = [known.version for known in verdict.remedies if known.verdict == "PASS"]
    if verdict.verdict == "PASS":
        kept = "The candidate is better on the new data and has kept the old"
        if page.always_ask:
            return (
                f"{kept}. A person decides all the same; until then the champion stays and the "
                "data stays pending."
            )
        return (
            f"{kept}: it becomes the champion without further ado, and one command takes that back."
        )
    if repaired:
        return (
            f"The candidate is not published as it is. {repaired[-1]}, which repairs it, has "
            "passed: see its own page."
        )
    if verdict.verdict == "FAIL":
        return (
            "The candidate is refused and the champion stays. Its data stays pending; the next "
            "update takes it again, together with what is new."
        )
    return (
        "The evidence does not decide, so a person does. Until then the champion stays and the "
        "data stays pending."
    )


def _actions(page: ReportInput) -> list[tuple[str, str]]:
    """What a person may want to do, each with the command for it."""
    verdict = page.verdict
    promote = f'perennial promote {verdict.candidate} --reason "..."'
    if verdict.verdict == "PASS" and not page.always_ask:
        return [("Go back", 'perennial rollback --reason "..."')]
    if verdict.verdict == "FAIL":
        return [("Publish it all the same", promote)]
    return [
        ("Publish it", promote),
        ("Turn it down", f'perennial reject {verdict.candidate} --reason "..."'),
        ("Go back afterwards", 'perennial rollback --reason "..."'),
    ]
