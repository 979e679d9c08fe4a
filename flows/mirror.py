"""What MLflow is shown of a lineage: curves while an update trains, the head after every change.

MLflow decides nothing. That it does not answer is told, and stops no training and no verdict.
"""

import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from flows.ground import Ground
from storage import registry
from storage.head import Head
from tasks.plan import UpdatePlan, load_plan
from tasks.publish import mirror
from tasks.train import MetricRelay, Metrics

logger = logging.getLogger(__name__)


class MirrorError(Exception):
    """MLflow does not show what the head says; the lineage itself is as it should be."""


def show_head(ground: Ground, head: Head, *, repair: bool) -> None:
    """Make MLflow show ``head``, and the curves that it lacks. Safe to retry.

    Without ``repair`` nothing is done, and MLflow not imported, when it was shown this head before.

    Raises:
        MirrorError: MLflow could not be told; the head stands all the same.
    """
    uri = ground.settings.tracking_uri
    is_shown = _is_there(uri) and registry.is_projected(ground.store, ground.layout, head, uri)
    if is_shown and not repair:
        return
    artifacts = ground.settings.artifact_uri
    try:
        _log_missing_curves(ground, head)
        mirror(ground.store, ground.layout, head, uri, artifact_location=artifacts)
    except Exception as error:  # whatever MLflow and its database raise
        raise MirrorError(
            f"head {head.number} of {head.lineage} is committed, champion "
            f"{head.champion or 'none'}, but MLflow could not be told ({_first_line(error)}); mend "
            "what PERENNIAL_MLFLOW_URI points at, or move its database away; the next command "
            "shows everything again"
        ) from error


def close_relay(relay: MetricRelay) -> None:
    """Wait until MLflow has the curves; that it does not get them is no reason to stop."""
    try:
        relay.close()
    except Exception as error:  # whatever MLflow and its database raise
        logger.warning(
            f"MLflow did not get all curves ({_first_line(error)}); they are in the store, and "
            "are shown when MLflow works again"
        )


def curve_receiver(ground: Ground, plan: UpdatePlan) -> Callable[[list[Metrics]], None]:
    """Opens, or resumes, the update's MLflow run and logs every step once."""
    run = registry.open_run(
        ground.settings.tracking_uri,
        lineage=ground.lineage.name,
        update=plan.id,
        artifact_location=ground.settings.artifact_uri,
        name=plan.version,
    )
    registry.log_params(run, run_parameters(plan))
    after_step = registry.last_logged_step(run)

    def receive(batch: list[Metrics]) -> None:
        points = [point for metrics in batch for point in metric_points(metrics)]
        registry.log_metrics(run, points, after_step=after_step)

    return receive


def metric_points(metrics: Metrics) -> list[registry.MetricPoint]:
    """One step's metrics as points of MLflow's curves."""
    return [
        registry.MetricPoint(
            key=name,
            step=metrics["step"],
            value=float(value),
            timestamp_ms=int(metrics["time"] * 1000),
        )
        for name, value in metrics.items()
        if name not in ("step", "time") and isinstance(value, int | float)
    ]


def run_parameters(plan: UpdatePlan) -> dict[str, object]:
    """What a reviewer searches runs by."""
    schedule = plan.train.schedule
    return {
        "version": plan.version,
        "champion": plan.champion or "",
        "trunk": plan.trunk or "",
        "snapshots": ", ".join(plan.snapshots),
        "replay": plan.replay or "",
        "replay_share": plan.replay_share,
        "total_tokens": plan.total_tokens,
        "num_steps": plan.train.num_steps,
        "global_batch_tokens": plan.train.global_batch_tokens,
        "seq_len": plan.train.seq_len,
        "schedule": schedule.kind,
        "eta_max": schedule.eta_max,
        "eta_min": schedule.eta_min,
        "warmup_tokens": schedule.warmup_tokens,
        "precision": plan.train.precision,
        "seed": plan.train.seed,
        **{f"model.{name}": value for name, value in asdict(plan.train.model).items()},
        **{f"optimizer.{name}": value for name, value in asdict(plan.train.optimizer).items()},
    }


def _is_there(tracking_uri: str) -> bool:
    """Whether MLflow's database is there, so far as one can see without MLflow."""
    scheme, found, path = tracking_uri.partition(":///")
    return not found or scheme != "sqlite" or Path(path).exists()


def _log_missing_curves(ground: Ground, head: Head) -> None:
    """Log what MLflow lacks of the curves of judged updates: it was lost, or was not there."""
    # Not at the top: needed only when there is a verdict to show.
    from training.metrics import read_metrics  # noqa: PLC0415

    for record in head.versions:
        if record.verdict == "IMPORTED":
            continue
        rows = read_metrics(ground.store, ground.layout.metrics(record.update))
        plan = load_plan(ground.store, ground.layout, record.update)
        curve_receiver(ground, plan)(rows)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
