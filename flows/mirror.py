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
from storage.lease_record import is_held, read_lease
from tasks.mirror import mirror
from tasks.train import MetricRelay, Metrics
from tasks.update_plan import UpdatePlan, load_plan
from training.errors import TrainingStoppedError
from training.goodput import read_lives, settled
from training.metrics import GOODPUT

logger = logging.getLogger(__name__)

_INTERRUPTED = "interrupted; the next update goes on with it"


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
    except TrainingStoppedError:
        end_run(ground, plan, "KILLED", _INTERRUPTED)
        raise
    except Exception as error:
        end_run(ground, plan, "FAILED", f"failed: {first_line_of(error)}")
        raise
    except BaseException:  # Ctrl-C, a cancelled flow, the end of the process
        end_run(ground, plan, "KILLED", _INTERRUPTED)
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

    What the store has and MLflow lacks is logged first. MLflow cannot take a point of a curve back:
    when the training goes back, the run goes to MLflow's trash, and another begins.
    """
    # Not at the top: needed only when there is something to show.
    from training.metrics import rewinds_in  # noqa: PLC0415

    receive, rewinds = _open_curves(ground, plan)

    def receive_or_begin_again(batch: list[Metrics]) -> None:
        nonlocal receive, rewinds
        if rewinds_in(batch) > rewinds:
            receive, rewinds = _open_curves(ground, plan)
        receive(batch)

    return receive_or_begin_again


def _open_curves(ground: Ground, plan: UpdatePlan) -> tuple[Callable[[list[Metrics]], None], int]:
    """A receiver of rows, and how often the run had gone back in those that MLflow has by now."""
    from training.metrics import read_metrics, rewinds_in  # noqa: PLC0415  likewise

    run = _open_run(ground, plan)
    rows = read_metrics(ground.store, ground.layout.metrics(plan.id))
    if _shows_left_branch(run, rows):
        registry.discard_run(run)
        run = _open_run(ground, plan)
    return _receiver(ground, plan, run), rewinds_in(rows)


def _open_run(ground: Ground, plan: UpdatePlan) -> registry.Run:
    return registry.open_run(
        ground.settings.tracking_uri,
        lineage=ground.lineage.name,
        update=plan.id,
        artifact_location=ground.settings.artifact_uri,
        name=plan.version,
    )


def _shows_left_branch(run: registry.Run, rows: list[Metrics]) -> bool:
    """Whether the run's curves may have steps that the training went back behind."""
    from training.metrics import REWINDS, rewinds_in  # noqa: PLC0415  likewise

    return rewinds_in(rows) > 0 and (registry.newest_value(run, REWINDS) or 0) < rewinds_in(rows)


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
    from training.metrics import STEP, TOKENS_SEEN, read_metrics  # noqa: PLC0415

    registry.log_params(run, run_parameters(plan))
    # Asked for, and not taken from the tag with the last step: that one is written after the
    # metrics. A step that was taken twice has two times, so MLflow would keep both rows.
    logged = registry.logged_steps(run, TOKENS_SEEN)

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
        has_account = found is not None and f"{GOODPUT}/productive_share" in found.curves
        if found is None or found.last_logged_step < plan.train.num_steps:
            has_account &= not _complete_curves(ground, plan, found)
        if not has_account:
            _log_goodput(ground, plan)


def _complete_curves(ground: Ground, plan: UpdatePlan, found: registry.FoundRun | None) -> bool:
    """Log what is missing, in the run that was found or in another; whether it is another."""
    from training.metrics import read_metrics  # noqa: PLC0415  likewise

    rows = read_metrics(ground.store, ground.layout.metrics(plan.id)) if found else []
    if found is None or _shows_left_branch(found.run, rows):
        curve_receiver(ground, plan)
        return True
    _receiver(ground, plan, found.run)
    return False


def _log_goodput(ground: Ground, plan: UpdatePlan) -> None:
    """Where the time of an update's training went, if that was kept; after its curves."""
    account = settled(ground.store, ground.layout, plan.id)
    if account is None:
        return
    uri = ground.settings.tracking_uri
    run = registry.find_run(uri, lineage=ground.lineage.name, update=plan.id)
    if run is None:
        return
    # The same every time, so that a point that is sent again is no second one.
    begun, _ = read_lives(ground.store, ground.layout, plan.id)
    timestamp_ms = int(1000 * (begun[0].asked_at + account.wall_seconds)) if begun else 0
    registry.log_figures(
        run,
        [
            registry.MetricPoint(
                key=f"{GOODPUT}/{name}",
                step=plan.train.num_steps,
                value=value,
                timestamp_ms=timestamp_ms,
            )
            for name, value in account.figures().items()
        ],
    )


def _end_abandoned(ground: Ground, head: Head, runs: dict[str, registry.FoundRun]) -> None:
    """End the runs of updates that nobody works on: their process was killed."""
    lease = read_lease(ground.store, ground.layout)
    working_on = lease.note if lease and is_held(lease) else ""
    judged = {record.update for record in head.versions}
    for update, found in runs.items():
        if found.status == "RUNNING" and update not in judged and update != working_on:
            registry.finish(found.run, "KILLED", reason="its process died before a verdict")


def end_run(
    ground: Ground, plan: UpdatePlan, status: Literal["FAILED", "KILLED"], reason: str
) -> None:
    """End the update's run; what MLflow makes of it stops nothing."""
    try:
        uri = ground.settings.tracking_uri
        run = registry.find_run(uri, lineage=ground.lineage.name, update=plan.id)
        if run is not None:
            registry.finish(run, status, reason=reason)
    except Exception as error:  # whatever MLflow and its database raise
        logger.warning(f"MLflow was not told that the update ended ({first_line_of(error)})")
