"""MLflow's tracking in our words: one experiment a lineage, one run an update.

Runs are for people who want curves; nothing is decided by them. Everything here may be done twice:
a call whose answer was lost is sent again, by MLflow's client or by the next command.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import TYPE_CHECKING, Literal, TypeVar

from storage.mlflow_client import mlflow_client

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun

_T = TypeVar("_T")

TAG = "perennial."
"""Prefix of every tag that we write; tags of others are left alone."""

_UPDATE_TAG = f"{TAG}update"
_LAST_STEP_TAG = f"{TAG}last_logged_step"
_REASON_TAG = f"{TAG}ended_because"
REPORT_TAG = f"{TAG}report"
"""Digest of what ``storage.run_report`` has attached."""

# MLflow's pages then show training runs, and not traces of applications.
_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}

# MLflow takes 1,000 values in a call, and one is the tag with the last step.
_METRICS_PER_CALL = 999
_PARAMS_PER_CALL = 100
_RUNS_PER_PAGE = 1000
# Width of MLflow's database column; SQLite would take more, PostgreSQL refuses.
_MAX_PARAM_CHARACTERS = 6000


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """An MLflow run; small enough to travel between tasks."""

    tracking_uri: str
    experiment_id: str
    run_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundRun:
    """A run as it was when it was listed."""

    run: Run
    status: str
    """MLflow's: RUNNING, FINISHED, FAILED, KILLED."""
    last_logged_step: int
    """Every step up to here is in MLflow; -1 for none."""
    report_digest: str
    """Of the page that hangs on it, empty for none."""
    curves: frozenset[str]
    """Names of the curves that have a point."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricPoint:
    """One value of one curve."""

    key: str
    """As in ``training.metrics``, e.g. ``train/loss``."""
    step: int
    value: float
    timestamp_ms: int
    """Milliseconds since the epoch; a point sent twice with the same time is one row in MLflow."""


def open_run(
    tracking_uri: str, *, lineage: str, update: str, artifact_location: str, name: str | None = None
) -> Run:
    """The run of ``update``, created at the first call and resumed at every later one.

    The caller holds the lineage's lease, so that two processes cannot both create it. Of two runs
    that one creation made, because its answer was lost and MLflow's client sent it again, the same
    one is kept by every call.

    Args:
        tracking_uri: e.g. ``sqlite:////var/lib/perennial/mlflow.db``.
        lineage: Name of the experiment.
        update: Update id; the run is found again by its tag.
        artifact_location: URI for the artifacts of a new experiment, empty to let an MLflow server
            choose; an existing one keeps its own.
        name: Shown in the list of runs; the update id when not given.
    """
    client = mlflow_client(tracking_uri)
    experiment_id = _experiment(client, lineage, artifact_location)
    found = _find_runs(client, experiment_id, update)
    if not found:
        tags = {_UPDATE_TAG: update, f"{TAG}lineage": lineage}
        client.create_run(experiment_id, run_name=name or update, tags=tags)
        found = _find_runs(client, experiment_id, update)
    kept, *again = found
    for run in again:
        client.delete_run(run.info.run_id)
    if kept.info.status != "RUNNING":
        client.update_run(kept.info.run_id, status="RUNNING")
    if _REASON_TAG in kept.data.tags:
        client.delete_tag(kept.info.run_id, _REASON_TAG)
    return Run(tracking_uri=tracking_uri, experiment_id=experiment_id, run_id=kept.info.run_id)


def find_run(tracking_uri: str, *, lineage: str, update: str) -> Run | None:
    """The run of ``update`` as it is, without resuming it; None when there is none."""
    found = list_runs(tracking_uri, lineage=lineage, update=update).get(update)
    return found.run if found else None


def list_runs(tracking_uri: str, *, lineage: str, update: str | None = None) -> dict[str, FoundRun]:
    """The runs of a lineage by their updates, as they are; one call a thousand runs."""
    client = mlflow_client(tracking_uri)
    experiment = client.get_experiment_by_name(lineage)
    if experiment is None:
        return {}
    listed: dict[str, FoundRun] = {}
    for run in _find_runs(client, experiment.experiment_id, update):
        tags = run.data.tags
        found = FoundRun(
            run=Run(
                tracking_uri=tracking_uri,
                experiment_id=experiment.experiment_id,
                run_id=run.info.run_id,
            ),
            status=run.info.status,
            last_logged_step=int(tags.get(_LAST_STEP_TAG, "-1")),
            report_digest=tags.get(REPORT_TAG, ""),
            curves=frozenset(run.data.metrics),
        )
        listed.setdefault(tags[_UPDATE_TAG], found)
    return listed


def log_params(run: Run, params: Mapping[str, object]) -> None:
    """Log parameters; what was logged before stays as it was. Safe to retry.

    MLflow refuses to change a parameter, and a resumed run with another value (a number of workers,
    say) is no reason to stop training, so only new keys are sent.
    """
    from mlflow.entities import Param  # noqa: PLC0415  heavy

    client = mlflow_client(run.tracking_uri)
    known = client.get_run(run.run_id).data.params
    new = [
        Param(key, shorten(str(value), _MAX_PARAM_CHARACTERS))
        for key, value in params.items()
        if key not in known
    ]
    for batch in _batches(new, _PARAMS_PER_CALL):
        client.log_batch(run.run_id, params=batch)


def log_metrics(
    run: Run, points: Iterable[MetricPoint], *, logged_steps: Collection[int] = ()
) -> None:
    """Log the points of steps that are not in ``logged_steps``; a step is logged whole or not.

    The points of a call are one transaction of MLflow's database, and those of a step go in one
    call, so that one curve tells which steps are there.

    Args:
        run: From ``open_run``.
        points: In order of their steps, and nothing missing between them and what is logged.
        logged_steps: From ``logged_steps``.
    """
    from mlflow.entities import Metric, RunTag  # noqa: PLC0415  heavy

    client = mlflow_client(run.tracking_uri)
    new = (point for point in points if point.step not in logged_steps)
    for call in _calls(new):
        client.log_batch(
            run.run_id,
            metrics=[Metric(p.key, p.value, p.timestamp_ms, p.step) for p in call],
            # MLflow writes the tag after the metrics: it never says more than there is.
            tags=[RunTag(_LAST_STEP_TAG, str(call[-1].step))],
        )


def log_figures(run: Run, points: Sequence[MetricPoint]) -> None:
    """Log what belongs to a whole run, all or nothing. Says nothing of which steps are there.

    Safe to retry: MLflow keeps a point that is sent again once.
    """
    from mlflow.entities import Metric  # noqa: PLC0415  heavy

    metrics = [Metric(p.key, p.value, p.timestamp_ms, p.step) for p in points]
    mlflow_client(run.tracking_uri).log_batch(run.run_id, metrics=metrics)


def logged_steps(run: Run, key: str) -> set[int]:
    """Steps of which the curve ``key`` has a point, and so every other curve of that step."""
    history = mlflow_client(run.tracking_uri).get_metric_history(run.run_id, key)
    return {metric.step for metric in history}


def newest_value(run: Run, key: str) -> float | None:
    """The value of the curve ``key`` at its last step, None when it has none."""
    return mlflow_client(run.tracking_uri).get_run(run.run_id).data.metrics.get(key)


def discard_run(run: Run) -> None:
    """Move the run to MLflow's trash; ``open_run`` then begins another. Safe to retry."""
    mlflow_client(run.tracking_uri).delete_run(run.run_id)


def finish(
    run: Run, status: Literal["FINISHED", "FAILED", "KILLED"] = "FINISHED", *, reason: str = ""
) -> None:
    """End the run; one that has ended keeps its status. ``open_run`` resumes it.

    Args:
        run: From ``open_run``.
        status: How it ended.
        reason: One sentence for who looks at the run in MLflow.
    """
    client = mlflow_client(run.tracking_uri)
    if client.get_run(run.run_id).info.status != "RUNNING":
        return
    if reason:
        client.set_tag(run.run_id, _REASON_TAG, shorten(reason, _MAX_PARAM_CHARACTERS))
    client.set_terminated(run.run_id, status=status)


def _experiment(client: "MlflowClient", lineage: str, artifact_location: str) -> str:
    from mlflow.exceptions import MlflowException  # noqa: PLC0415  heavy

    experiment = client.get_experiment_by_name(lineage)
    if experiment is None:
        try:
            return client.create_experiment(
                lineage, artifact_location=artifact_location or None, tags=_EXPERIMENT_TAGS
            )
        except MlflowException as error:
            # Made by this very call, whose answer was lost, or by a refresh beside us.
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        experiment = client.get_experiment_by_name(lineage)
        assert experiment is not None
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    return experiment.experiment_id


def _find_runs(
    client: "MlflowClient", experiment_id: str, update: str | None
) -> "Sequence[MlflowRun]":
    """Our runs that nobody deleted, the one to keep of every update first."""
    wanted = f"= '{update}'" if update else "!= ''"
    found: list[MlflowRun] = []
    token: str | None = None
    while True:
        page = client.search_runs(
            [experiment_id],
            filter_string=f"tags.`{_UPDATE_TAG}` {wanted}",
            max_results=_RUNS_PER_PAGE,
            page_token=token,
        )
        found += page
        token = page.token
        if not token:
            # The second run of a creation that was sent twice has the same start time.
            return sorted(found, key=lambda run: (run.info.start_time, run.info.run_id))


def _calls(points: Iterable[MetricPoint]) -> Iterator[list[MetricPoint]]:
    """Whole steps together, as many as one call takes."""
    call: list[MetricPoint] = []
    for _, grouped in groupby(points, lambda point: point.step):
        step = list(grouped)
        if call and len(call) + len(step) > _METRICS_PER_CALL:
            yield call
            call = []
        call += step
    if call:
        yield call


def _batches(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def shorten(text: str, limit: int) -> str:
    """``text``, cut to ``limit`` characters so that one sees it."""
    return text if len(text) <= limit else text[: limit - 4] + " ..."
