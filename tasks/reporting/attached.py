"""What hangs on an update's run in MLflow: the report, figures, tables, a picture of the matrix."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from storage.errors import NotFoundError
from storage.head import Head, VersionRecord
from storage.layout import Layout
from storage.manifest import load
from storage.objects import ObjectStore
from storage.registry import FoundRun, MetricPoint, Run
from storage.run_report import Attached, log_report
from storage.suite import read_suite
from tasks.judge.verdict import VerdictReport
from tasks.reporting.figures import figures_of, tables_of
from tasks.reporting.matrix import matrix_picture
from tasks.reporting.page import Decided, report_key, verdict_key
from tasks.scoring.scores import forgetting_matrix
from tasks.update_plan import load_plan


def report_of(store: ObjectStore, layout: Layout, record: VersionRecord) -> str | None:
    """The report of a version, None when it has none."""
    try:
        return store.get(report_key(layout, record.update, record.judged_on)).decode()
    except NotFoundError:
        return None


def attach(
    store: ObjectStore,
    layout: Layout,
    head: Head,
    record: VersionRecord,
    run: Run,
    html: str,
    decided: Sequence[Decided],
    *,
    found: FoundRun | None,
) -> None:
    """Hang the evidence of a version on its run, unless it hangs there already. Safe to retry.

    Args:
        store: Where everything of the lineage lies.
        layout: Of the lineage.
        head: The newest head.
        record: The version.
        run: Of its update, open or ended.
        html: Its report.
        decided: What was decided on it, oldest first; tells when it was judged.
        found: The run as it was when it was listed, None for a new one.
    """

    def beside() -> Attached:
        try:
            report = load(
                store, verdict_key(layout, record.update, record.judged_on), VerdictReport
            )
            step = load_plan(store, layout, record.update).train.num_steps
        except NotFoundError:
            return Attached()
        suite = read_suite(store, layout, report.suite)
        earlier = head.versions[: head.versions.index(record) + 1]
        matrix = forgetting_matrix(store, layout, replace(head, versions=earlier), suite)
        picture = matrix_picture(matrix, report.config.max_loss_nats)
        # The same every time, so that a point that is sent again is no second one.
        at = datetime.fromisoformat(decided[-1].written_at) if decided else None
        points = [
            MetricPoint(
                key=key,
                step=step,
                value=value,
                timestamp_ms=int(1000 * at.timestamp()) if at else 0,
            )
            for key, value in figures_of(report).items()
        ]
        files = tables_of(report, matrix) | ({"forgetting.svg": picture} if picture else {})
        return Attached(files=files, points=tuple(points))

    digest = found.report_digest if found is not None else ""
    log_report(run, html, known_digest=digest, beside=beside)
