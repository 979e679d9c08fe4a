"""What hangs on the MLflow runs of a lineage, fetched to be looked at."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from infra.credentials import first_line_of
from storage.errors import RunArtifactsError
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

    Raises:
        RunArtifactsError: MLflow, or what keeps the artifacts, cannot be read.
    """
    # What the reader of the copies raises is not thrown into a generator, so none of it is caught.
    with _told_as_one_error():
        client = mlflow_client(tracking_uri)
        for run in _runs(client, lineage):
            for name in _names(client, run, None):
                path = Path(client.download_artifacts(run, name, str(directory)))
                yield f"MLflow run {run}: {name}", path
                path.unlink()


@contextmanager
def _told_as_one_error() -> Generator[None]:
    try:
        yield
    except Exception as error:  # whatever MLflow, its database and its artifact store raise
        raise RunArtifactsError(
            f"what hangs on the runs of MLflow could not be read ({first_line_of(error)})"
        ) from error


def _runs(client: "MlflowClient", lineage: str) -> Iterator[str]:
    from mlflow.entities import ViewType  # noqa: PLC0415  heavy

    experiment = client.get_experiment_by_name(lineage)
    if experiment is None:
        return
    token: str | None = None
    while True:
        page = client.search_runs(
            [experiment.experiment_id], run_view_type=ViewType.ALL, page_token=token
        )
        yield from (run.info.run_id for run in page)
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

    Raises:
        RunArtifactsError: MLflow cannot be read.
    """
    with _told_as_one_error():
        experiment = mlflow_client(tracking_uri).get_experiment_by_name(lineage)
    if experiment is None:
        return None
    location = str(experiment.artifact_location)
    parts = urlsplit(location)
    if parts.scheme == "mlflow-artifacts":
        location = f"{destination.rstrip('/')}/{parts.path.strip('/')}"
    root, _, folder = location.rstrip("/").rpartition("/")
    return (open_store(root), folder) if location.startswith("s3://") else None
