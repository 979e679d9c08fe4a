"""A verdict as MLflow takes it: figures by the names of ``training.metrics``, and tables. Pure."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

from tasks.judge.health import Writing
from tasks.judge.numbers import Numbers
from tasks.judge.verdict import ALL_NEW, DomainRow, TaskRow, VerdictReport
from tasks.scoring.forgetting import ForgettingMatrix
from training.metrics import (
    CALIBRATION,
    CANARY,
    DRIFT,
    EVAL,
    EVAL_NEW,
    EVAL_TASK,
    FORGETTING,
    GAIN,
    GAIN_BOUND,
    HEALTH,
    STABILITY,
    TOKENS_WORSE,
    WORST_BOUND,
    WORST_LOSS,
)

_NOT_IN_NAMES = re.compile(r"[^\w\-. /]")
"""MLflow refuses other characters in the name of a metric."""

_Figures = Iterator[tuple[str, float | None]]


def figures_of(report: VerdictReport) -> dict[str, float]:
    """What is known of the candidate in numbers; what could not be measured is left out."""
    numbers = report.numbers or Numbers()
    found = [
        *_losses(report.rows),
        *_bounds(report.rows),
        *_tasks(report.task_rows),
        *_health(report),
        *_beside(numbers),
    ]
    return {_NOT_IN_NAMES.sub("_", name): value for name, value in found if value is not None}


def tables_of(report: VerdictReport, matrix: ForgettingMatrix) -> dict[str, str]:
    """Tables by the names of their files, in the JSON that MLflow shows as a table."""
    numbers = report.numbers or Numbers()
    tables = {"requirements": _table([asdict(row) for row in report.rows])}
    if matrix.slices:
        tables["forgetting"] = _table(
            [
                {
                    "version": row.version,
                    "decision": row.decision,
                    **dict(zip(matrix.slices, row.nats_per_token, strict=True)),
                }
                for row in matrix.rows
            ]
        )
    if report.task_rows:
        # The examples are a table of their own.
        rows = [asdict(row) for row in report.task_rows]
        tables["tasks"] = _table(
            [{name: value for name, value in row.items() if name != "examples"} for row in rows]
        )
    flips = [
        {"task": row.task, **asdict(flip)} for row in report.task_rows for flip in row.examples
    ]
    if flips:
        tables["flips"] = _table(flips)
    if numbers.drift is not None:
        tables["drift"] = _table(
            [
                {
                    "layer": part.layer,
                    "part": part.part,
                    "parameters": part.parameters,
                    "relative_change": part.relative,
                }
                for part in numbers.drift.parts
            ]
        )
    if report.health.canary is not None:
        tables["canary"] = _table([asdict(item) for item in report.health.canary.slices])
    calibrations = {
        "candidate": numbers.calibration,
        "champion": numbers.champion_calibration,
    }
    bins = [
        {"model": model, **asdict(found)}
        for model, calibration in calibrations.items()
        if calibration is not None
        for found in calibration.bins
    ]
    if bins:
        tables["calibration"] = _table(bins)
    return {f"tables/{name}.json": text for name, text in tables.items()}


def _losses(rows: Sequence[DomainRow]) -> _Figures:
    for row in rows:
        if row.test != "cumulative":
            prefix = EVAL if row.role == "old" else EVAL_NEW
            name = "all" if row.domain == ALL_NEW else row.domain
            yield f"{prefix}/{name}/nats_per_token", row.candidate_nats_per_token


def _bounds(rows: Sequence[DomainRow]) -> _Figures:
    for row in rows:
        if row.test == "gain":
            yield GAIN, _negated(row.difference)
            yield GAIN_BOUND, _negated(row.upper_bound)
    losses = [row for row in rows if row.test == "loss"]
    yield WORST_LOSS, _largest([row.difference for row in losses])
    # One that is not bounded at all is the worst, and no number.
    if all(row.upper_bound is not None for row in losses):
        yield WORST_BOUND, _largest([row.upper_bound for row in losses])


def _tasks(rows: Sequence[TaskRow]) -> _Figures:
    for row in rows:
        yield f"{EVAL_TASK}/{row.task}/accuracy", row.candidate_accuracy
        yield f"{EVAL_TASK}/{row.task}/negative_flips", float(row.negative_flips)


def _health(report: VerdictReport) -> _Figures:
    health = report.health
    for prefix, writing in (("", health.candidate), ("champion_", health.champion)):
        if writing is not None:
            yield from _writing(prefix, writing)
    if health.canary is not None:
        yield CANARY, _largest([item.perplexity_ratio for item in health.canary.slices])


def _writing(prefix: str, writing: Writing) -> _Figures:
    for name, value in asdict(writing).items():
        yield f"{HEALTH}/{prefix}{name}", value


def _beside(numbers: Numbers) -> _Figures:
    found = numbers.forgetting
    if found is not None:
        yield f"{FORGETTING}/mean", found.mean_forgetting
        yield f"{FORGETTING}/worst", found.worst_forgetting
        yield f"{FORGETTING}/backward_transfer", found.backward_transfer
        yield f"{FORGETTING}/forward_transfer", found.forward_transfer
    for gap in numbers.stability:
        yield f"{STABILITY}/{gap.domain}/depth_nats", gap.depth
        yield f"{STABILITY}/{gap.domain}/recovery_tokens", gap.recovery_tokens
    if numbers.drift is not None:
        yield f"{DRIFT}/total", numbers.drift.total
        for layer, change in numbers.drift.by_layer.items():
            yield f"{DRIFT}/layer_{layer}", change
    for prefix, calibration in (
        ("", numbers.calibration),
        ("champion_", numbers.champion_calibration),
    ):
        if calibration is not None:
            yield f"{CALIBRATION}/{prefix}expected_error", calibration.expected_error
    if numbers.token_change is not None:
        yield TOKENS_WORSE, numbers.token_change.worse_share


def _table(rows: Sequence[Mapping[str, object]]) -> str:
    """As ``mlflow.log_table`` writes it, for MLflow's pages to read."""
    columns = list(rows[0]) if rows else []
    return json.dumps(
        {"columns": columns, "data": [[row[name] for name in columns] for row in rows]}
    )


def _negated(value: float | None) -> float | None:
    return None if value is None else 0 - value


def _largest(values: Sequence[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)
