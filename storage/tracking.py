"""MLflow's tracking in our words: one experiment a lineage, one run an update.

Runs are for people who want curves; nothing is decided by them. Importing MLflow takes seconds, so
it happens inside the functions.
"""

import fcntl
import functools
import hashlib
import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

if TYPE_CHECKING:
    from mlflow import MlflowClient

_T = TypeVar("_T")

TAG = "perennial."
"""Prefix of every tag that we write; tags of others are left alone."""

_METRICS_PER_BATCH = 1000
_PARAMS_PER_BATCH = 100
# Width of MLflow's database column; SQLite would take more, PostgreSQL refuses.
_MAX_PARAM_CHARACTERS = 6000


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """An MLflow run; small enough to travel between tasks."""

    tracking_uri: str
    experiment_id: str
    run_id: str


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

    The caller holds the lineage's lease, so that two processes cannot both create it.

    Args:
        tracking_uri: e.g. ``sqlite:////var/lib/perennial/mlflow.db``.
        lineage: Name of the experiment.
        update: Update id; the run is found again by its tag.
        artifact_location: URI for the artifacts of a new experiment; an existing one keeps its own.
        name: Shown in the list of runs; the update id when not given.
    """
    client = mlflow_client(tracking_uri)
    experiment_id = _experiment(client, lineage, artifact_location)
    run_id = _find_run(client, experiment_id, update)
    if run_id is None:
        created = client.create_run(
            experiment_id,
            run_name=name or update,
            tags={f"{TAG}update": update, f"{TAG}lineage": lineage},
        )
        run_id = created.info.run_id
    else:
        client.update_run(run_id, status="RUNNING")
    return Run(tracking_uri=tracking_uri, experiment_id=experiment_id, run_id=run_id)


def find_run(tracking_uri: str, *, lineage: str, update: str) -> Run | None:
    """The run of ``update`` as it is, without resuming it; None when there is none."""
    client = mlflow_client(tracking_uri)
    experiment = client.get_experiment_by_name(lineage)
    if experiment is None:
        return None
    run_id = _find_run(client, experiment.experiment_id, update)
    if run_id is None:
        return None
    return Run(tracking_uri=tracking_uri, experiment_id=experiment.experiment_id, run_id=run_id)


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
    for batch in _batches(new, _PARAMS_PER_BATCH):
        client.log_batch(run.run_id, params=batch)


def log_metrics(run: Run, points: Iterable[MetricPoint], *, after_step: int = -1) -> None:
    """Log the points of steps above ``after_step``, in batches that MLflow accepts.

    Args:
        run: From ``open_run``.
        points: In order of their steps.
        after_step: Last step that is logged already, from ``last_logged_step``; -1 for none.
    """
    from mlflow.entities import Metric  # noqa: PLC0415  heavy

    client = mlflow_client(run.tracking_uri)
    new = (point for point in points if point.step > after_step)
    last = after_step
    for batch in _batches(new, _METRICS_PER_BATCH):
        metrics = [Metric(p.key, p.value, p.timestamp_ms, p.step) for p in batch]
        client.log_batch(run.run_id, metrics=metrics)
        last = max(last, *(point.step for point in batch))
    if last > after_step:
        client.set_tag(run.run_id, f"{TAG}last_logged_step", str(last))


def last_logged_step(run: Run) -> int:
    """The highest step that ``log_metrics`` has finished logging, -1 for none."""
    tags = mlflow_client(run.tracking_uri).get_run(run.run_id).data.tags
    return int(tags.get(f"{TAG}last_logged_step", "-1"))


def log_report(run: Run, html: str) -> None:
    """Attach ``report.html`` to the run, if it is not the page that hangs there already."""
    client = mlflow_client(run.tracking_uri)
    digest = hashlib.sha256(html.encode()).hexdigest()
    if client.get_run(run.run_id).data.tags.get(f"{TAG}report") == digest:
        return
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "report.html"
        path.write_text(html, encoding="utf-8")
        client.log_artifact(run.run_id, str(path))
    client.set_tag(run.run_id, f"{TAG}report", digest)


def finish(run: Run, status: Literal["FINISHED", "FAILED", "KILLED"] = "FINISHED") -> None:
    """End the run; one that has ended keeps its status. ``open_run`` resumes it."""
    client = mlflow_client(run.tracking_uri)
    if client.get_run(run.run_id).info.status == "RUNNING":
        client.set_terminated(run.run_id, status=status)


@functools.lru_cache(maxsize=8)
def mlflow_client(tracking_uri: str) -> "MlflowClient":
    """MLflow's client for tracking and registry at one URI; the first call creates the tables."""
    # Read while MLflow is being imported. Nothing leaves the configured servers.
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["DO_NOT_TRACK"] = "true"
    with warnings.catch_warnings():
        # MLflow's own use of SQLAlchemy 2.1; it concerns nobody who runs Perennial.
        warnings.filterwarnings("ignore", "The ``noload`` loader strategy", DeprecationWarning)
        from mlflow import MlflowClient  # noqa: PLC0415  heavy

        path = _sqlite_file(tracking_uri)
        if path is not None and not path.exists():
            _create_database(path)
        return MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)


def _sqlite_file(tracking_uri: str) -> Path | None:
    """The file of a ``sqlite:///`` URI; None for a server and for a database in memory."""
    name = tracking_uri.removeprefix("sqlite:///").partition("?")[0]
    return Path(name) if tracking_uri.startswith("sqlite:///") and name else None


def _create_database(path: Path) -> None:
    """Have MLflow make its tables in a file that appears whole or not at all.

    MLflow never opens a file again in which a first creation was cut short.
    """
    from mlflow import MlflowClient  # noqa: PLC0415  heavy

    path.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # Released by the kernel when its holder dies: what lies there then is a leftover.
        fcntl.flock(folder, fcntl.LOCK_EX)
        if path.exists():
            return
        for leftover in path.parent.glob(f".{path.name}.*.new*"):
            leftover.unlink()
        # Of a fresh name, because MLflow keeps a connection to every file that it has opened.
        new = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}.new")
        uri = f"sqlite:///{new}"
        MlflowClient(tracking_uri=uri, registry_uri=uri).search_experiments(max_results=1)
        new.replace(path)
    finally:
        os.close(folder)


def _experiment(client: "MlflowClient", lineage: str, artifact_location: str) -> str:
    experiment = client.get_experiment_by_name(lineage)
    if experiment is None:
        return client.create_experiment(lineage, artifact_location=artifact_location)
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    return experiment.experiment_id


def _find_run(client: "MlflowClient", experiment_id: str, update: str) -> str | None:
    runs = client.search_runs(
        [experiment_id],
        filter_string=f"tags.`{TAG}update` = '{update}'",
        max_results=1,
        order_by=["attributes.start_time ASC"],
    )
    return runs[0].info.run_id if runs else None


def _batches(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def shorten(text: str, limit: int) -> str:
    """``text``, cut to ``limit`` characters so that one sees it."""
    return text if len(text) <= limit else text[: limit - 4] + " ..."
