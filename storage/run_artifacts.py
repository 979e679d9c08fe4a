"""What hangs on the MLflow runs of a lineage, fetched to be looked at."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from storage.mlflow_client import mlflow_client
from storage.objects import ObjectStore, open_store

if TYPE_CHECKING:
    from mlflow import MlflowClient


def fetch_artifacts(
    tracking_uri: str, *, lineage: str, directory: Path
) -> Iterator[tuple[str, Path]]:
    """Every artifact of every run of the lineage, also of discarded ones: its name, a local copy.

    Args:
        tracking_uri: MLflow's tracking server.
        lineage: Name of the experiment.
        directory: Existing and empty; a copy is removed when the next one is asked for.
    """
    from mlflow.entities import ViewType  # noqa: PLC0415  heavy

    client = mlflow_client(tracking_uri)
    experiment = client.get_experiment_by_name(lineage)
    if experiment is None:
        return
    token: str | None = None
    while True:
        page = client.search_runs(
            [experiment.experiment_id], run_view_type=ViewType.ALL, page_token=token
        )
        for run in page:
            for name in _names(client, run.info.run_id, None):
                path = Path(client.download_artifacts(run.info.run_id, name, str(directory)))
                yield f"MLflow run {run.info.run_id}: {name}", path
                path.unlink()
        token = page.token
        if not token:
            return


def _names(client: "MlflowClient", run: str, folder: str | None) -> Iterator[str]:
    for found in client.list_artifacts(run, folder):
        if found.is_dir:
            yield from _names(client, run, found.path)
        else:
            yield found.path


def bucket_of_artifacts(
    tracking_uri: str, *, lineage: str, destination: str
) -> tuple[ObjectStore, str] | None:
    """The bucket in which the artifacts of the lineage lie, and below which prefix.

    None where they lie in no bucket, in one that is not known, or where there are none yet.

    Args:
        tracking_uri: MLflow's tracking server.
        lineage: Name of the experiment.
        destination: URI below which a server keeps what is sent through it; empty: not known.
    """
    experiment = mlflow_client(tracking_uri).get_experiment_by_name(lineage)
    if experiment is None:
        return None
    location = str(experiment.artifact_location)
    parts = urlsplit(location)
    if parts.scheme == "mlflow-artifacts":
        location = f"{destination.rstrip('/')}/{parts.path.strip('/')}"
    root, _, folder = location.rstrip("/").rpartition("/")
    return (open_store(root), folder) if location.startswith("s3://") else None
