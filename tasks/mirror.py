"""Show the head of a lineage in MLflow, which is only a picture of it."""

from collections.abc import Callable, Mapping, Sequence

from storage.head import Head, VersionRecord
from storage.layout import Layout
from storage.objects import ObjectStore
from storage.registry import (
    FoundRun,
    Run,
    VersionPage,
    finish,
    list_runs,
    open_run,
    project,
)
from tasks.reporting.attached import attach, report_of
from tasks.reporting.page import Decided, decisions_of, version_page


def mirror(
    store: ObjectStore, layout: Layout, head: Head, tracking_uri: str, *, artifact_location: str
) -> None:
    """Show the head in MLflow: versions, tags, pages, alias and reports; repairs what differs.

    Takes seconds, of which most is importing MLflow: ask ``storage.registry.is_projected`` first
    where there may be nothing to do. Safe to retry.

    Args:
        store: Where everything of the lineage lies.
        layout: Of the lineage.
        head: The newest head.
        tracking_uri: MLflow's tracking server and registry.
        artifact_location: URI under which a new experiment keeps its artifacts; empty to let an
            MLflow server choose.
    """
    found = list_runs(tracking_uri, lineage=layout.lineage)
    decided = decisions_of(store, layout)

    def opened(update: str) -> Run:
        return open_run(
            tracking_uri, lineage=layout.lineage, update=update, artifact_location=artifact_location
        )

    runs = {
        record.version: _reported_run(
            store,
            layout,
            head,
            record,
            decided.get(record.version, ()),
            found.get(record.update),
            opened,
        )
        for record in head.versions
    }
    records = {record.version: record for record in head.versions}

    def page(version: str, numbers: Mapping[str, int]) -> VersionPage:
        return version_page(
            store,
            layout,
            head,
            records[version],
            decided.get(version, ()),
            run=runs[version],
            numbers=numbers,
        )

    project(store, layout, head, tracking_uri, page)


def _reported_run(
    store: ObjectStore,
    layout: Layout,
    head: Head,
    record: VersionRecord,
    decided: Sequence[Decided],
    found: FoundRun | None,
    opened: Callable[[str], Run],
) -> Run | None:
    """The run of the version's update, ended, with its evidence; None when it has neither."""
    html = report_of(store, layout, record)
    if html is None:
        return found.run if found else None
    if found is not None and found.status == "FINISHED":
        attach(store, layout, head, record, found.run, html, decided, found=found)
        return found.run
    # An update that has a verdict has ended well, whatever became of its run on the way.
    run = opened(record.update)
    attach(store, layout, head, record, run, html, decided, found=found)
    finish(run)
    return run
