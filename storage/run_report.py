"""The report of an update on its MLflow run, with the tables and figures that hang beside it."""

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from storage.mlflow_client import mlflow_client
from storage.tracking import REPORT_TAG, MetricPoint, Run, log_figures

# MLflow's own, by which its pages find what log_table writes; ours is text that is there already.
_TABLES_TAG = "mlflow.loggedArtifacts"
# Part of the report's digest: raise it when what hangs beside the report changes.
_EVIDENCE_FORMAT = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Attached:
    """What hangs on a run beside its report."""

    files: Mapping[str, str] = field(default_factory=dict[str, str])
    """Texts by their paths; MLflow shows those in ``tables/`` as tables."""
    points: tuple[MetricPoint, ...] = ()
    """Of the whole run."""


def log_report(
    run: Run,
    html: str,
    *,
    known_digest: str = "",
    beside: Callable[[], Attached] | None = None,
) -> None:
    """Attach ``report.html`` to the run, if it is not the page that hangs there already.

    Safe to retry.

    Args:
        run: From ``open_run``.
        html: The page.
        known_digest: Of the page that hangs there, as ``FoundRun`` has it.
        beside: What else hangs there, a function of the same evidence; asked for only when it is
            attached.
    """
    digest = hashlib.sha256(f"{_EVIDENCE_FORMAT}{html}".encode()).hexdigest()
    if known_digest == digest:
        return
    client = mlflow_client(run.tracking_uri)
    more = Attached() if beside is None else beside()
    if more.points:
        log_figures(run, more.points)
    files = {"report.html": html, **more.files}
    with tempfile.TemporaryDirectory() as directory:
        for name, text in files.items():
            path = Path(directory) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        client.log_artifacts(run.run_id, directory)
    tables = [{"path": name, "type": "table"} for name in files if name.startswith("tables/")]
    if tables:
        client.set_tag(run.run_id, _TABLES_TAG, json.dumps(tables))
    client.set_tag(run.run_id, REPORT_TAG, digest)
