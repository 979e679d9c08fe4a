"""What MLflow is shown of a lineage: curves while an update trains, the head after every change.

MLflow decides nothing. That it does not answer is told, and stops no training and no verdict.
"""

import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from flows.ground import Ground
from infra.credentials import first_line_of
from storage import registry
from storage.head import Head
from storage.lease import is_held, read_lease
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
    if not repair and is_shown(ground, head):
        return
    artifacts = ground.settings.artifact_uri
    try:
        runs = registry.list_runs(uri, lineage=head.lineage)
        _end_abandoned(ground, head, runs)
        _log_missing_curves(ground, head, runs)
        mirror(ground.store, ground.layout, head, uri, artifact_location=artifacts)
    except Exception as error:  # whatever MLflow and its database raise
        raise MirrorError(
            f"head {head.number} of {head.lineage} is committed, champion "
            f"{head.champion or 'none'}, but MLflow could not be told ({first_line_of(error)}); "
            "mend what PERENNIAL_MLFLOW_URI points at, or move its database away; the next command "
            "shows everything again"
        ) from error


def is_shown(ground: Ground, head: Head) -> bool:
    """Whether MLflow was told what ``head`` says, so far as one can see without MLflow."""
    uri = ground.settings.tracking_uri
    scheme, found, path = uri.partition(":///")
    is_lost = found != "" and scheme == "sqlite" and not Path(path).exists()
    return not is_lost and registry.is_projected(ground.store, ground.layout, head, uri)


@contextmanager
def told_how_it_ends(ground: Ground, plan: UpdatePlan) -> Generator[None]:
    """End the update's MLflow run with FAILED or KILLED and the reason, when the body raises.

    Started again, the update resumes its run; what ends well is ended by ``show_head``.
    """
    try:
        yield
    except Exception as error:
        _end_run(ground, plan, "FAILED", f"failed: {first_line_of(error)}")
        raise
    except BaseException:  # Ctrl-C, a cancelled flow, the end of the process
        _end_run(ground, plan, "KILLED", "interrupted; the next update goes on with it")
        raise


def close_relay(relay: MetricRelay) -> None:
    """Wait until MLflow has the curves; that it does not get them is no reason to stop."""
    try:
        relay.close()
    except Exception as error:  # whatever MLflow and its database raise
        logger.warning(
            f"MLflow did not get all curves ({first_line_of(error)}); they are in the store, and "
            "are shown when MLflow works again"
        )


def curve_receiver(ground: Ground, plan: UpdatePlan) -> Callable[[list[Metrics]], None]:
    """Opens, or resumes, the update's MLflow run and logs every step once.

    What the store has and MLflow lacks is logged first.
    """
    run = registry.open_run(
        ground.settings.tracking_uri,
        lineage=ground.lineage.name,
        update=plan.id,
        artifact_location=ground.settings.artifact_uri,
        name=plan.version,
    )
    return _receiver(ground, plan, run)


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


def _receiver(
    ground: Ground, plan: UpdatePlan, run: registry.Run
) -> Callable[[list[Metrics]], None]:
    # Not at the top: needed only when there is something to show.
    from training.metrics import LOSS, STEP, read_metrics  # noqa: PLC0415

    registry.log_params(run, run_parameters(plan))
    # Asked for, and not taken from the tag with the last step: that one is written after the
    # metrics. A step that was taken twice has two times, so MLflow would keep both rows.
    logged = registry.logged_steps(run, LOSS)

    def receive(batch: list[Metrics]) -> None:
        points = [point for metrics in batch for point in metric_points(metrics)]
        registry.log_metrics(run, points, logged_steps=logged)
        logged.update(metrics[STEP] for metrics in batch)

    receive(read_metrics(ground.store, ground.layout.metrics(plan.id)))
    return receive


def _log_missing_curves(ground: Ground, head: Head, runs: dict[str, registry.FoundRun]) -> None:
    """Log what MLflow lacks of the curves of judged updates: it was lost, or was not there."""
    for record in head.versions:
        if record.verdict == "IMPORTED":
            continue
        plan = load_plan(ground.store, ground.layout, record.update)
        found = runs.get(record.update)
        if found is None:
            curve_receiver(ground, plan)
        elif found.last_logged_step < plan.train.num_steps:
            _receiver(ground, plan, found.run)


def _end_abandoned(ground: Ground, head: Head, runs: dict[str, registry.FoundRun]) -> None:
    """End the runs of updates that nobody works on: their process was killed."""
    lease = read_lease(ground.store, ground.layout)
    working_on = lease.note if lease and is_held(lease) else ""
    judged = {record.update for record in head.versions}
    for update, found in runs.items():
        if found.status == "RUNNING" and update not in judged and update != working_on:
            registry.finish(found.run, "KILLED", reason="its process died before a verdict")


def _end_run(
    ground: Ground, plan: UpdatePlan, status: Literal["FAILED", "KILLED"], reason: str
) -> None:
    try:
        uri = ground.settings.tracking_uri
        run = registry.find_run(uri, lineage=ground.lineage.name, update=plan.id)
        if run is not None:
            registry.finish(run, status, reason=reason)
    except Exception as error:  # whatever MLflow and its database raise
        logger.warning(f"MLflow was not told that the update ended ({first_line_of(error)})")
