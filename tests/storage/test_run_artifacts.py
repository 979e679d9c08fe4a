"""What hangs on MLflow's runs: whose fault it is when it cannot be read."""

from pathlib import Path

import pytest

from storage.errors import RunArtifactsError
from storage.mlflow_client import mlflow_client
from storage.run_artifacts import bucket_of_artifacts, fetch_artifacts


def run_with(artifact: Path, uri: str, location: str) -> str:
    client = mlflow_client(uri)
    run = client.create_run(client.create_experiment("demo", location)).info.run_id
    client.log_artifact(run, str(artifact))
    return run


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    path = tmp_path / "card.md"
    path.write_text("better")
    return path


def test_copies_are_named_by_run_and_gone_when_the_next_is_asked_for(
    tmp_path: Path, artifact: Path
) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    run = run_with(artifact, uri, str(tmp_path / "kept"))
    copies = tmp_path / "copies"
    copies.mkdir()
    seen = [
        (name, path.read_text())
        for name, path in fetch_artifacts(uri, lineage="demo", directory=copies)
    ]
    assert seen == [(f"MLflow run {run}: card.md", "better")]
    assert list(copies.iterdir()) == []


def test_a_store_of_artifacts_that_cannot_be_read_is_told_with_what_mlflow_says(
    tmp_path: Path, artifact: Path
) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    kept = tmp_path / "kept"
    run = run_with(artifact, uri, str(kept))
    (kept / run / "artifacts" / "card.md").unlink()
    (kept / run / "artifacts" / "card.md").symlink_to(tmp_path / "nowhere")
    with pytest.raises(RunArtifactsError, match=r"could not be read .*card\.md"):
        list(fetch_artifacts(uri, lineage="demo", directory=tmp_path))


def test_a_database_that_is_none_is_told(tmp_path: Path) -> None:
    uri = "sqlite:////proc/nowhere/mlflow.db"
    with pytest.raises(RunArtifactsError, match="could not be read"):
        bucket_of_artifacts(uri, lineage="demo", destination="")
    with pytest.raises(RunArtifactsError, match="could not be read"):
        list(fetch_artifacts(uri, lineage="demo", directory=tmp_path))


def test_a_fault_of_who_reads_the_copies_is_not_taken_for_one_of_mlflow(
    tmp_path: Path, artifact: Path
) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    run_with(artifact, uri, str(tmp_path / "kept"))

    def read() -> None:
        for _, path in fetch_artifacts(uri, lineage="demo", directory=tmp_path):
            int(path.read_text())

    with pytest.raises(ValueError, match="invalid literal"):
        read()
