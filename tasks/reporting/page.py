"""The page of a model version in MLflow: what a reviewer must know within a minute."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from storage.errors import NotFoundError
from storage.head import Head, VersionRecord, history
from storage.layout import Layout
from storage.manifest import identity_of, load
from storage.models import read_model_manifest
from storage.objects import ObjectStore
from storage.registry import Run, VersionPage
from storage.snapshots import read_snapshot_manifest
from tasks.judge.verdict import DomainRow, VerdictReport
from tasks.reporting.card import card_of
from tasks.reporting.figures import figures_of
from tasks.update_plan import UpdatePlan, load_plan
from training.goodput import settled
from training.metrics import FORGETTING, GAIN, WORST_LOSS

_TABLE_ROWS = 12
"""MLflow keeps 5,000 characters of a page."""
_CHILDREN = 5
"""Links to the newest; a champion that nobody could beat has many."""
_DECISIONS = {
    "published": "published",
    "refused": "refused by its verdict",
    "awaiting": "waiting for a person",
    "rejected": "rejected by a person",
    "rolled_back": "rolled back",
    "superseded": "superseded: another version has learned its data",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """A head that changed a version's verdict or decision, or made it champion."""

    head: int
    action: str
    by: str
    reason: str
    written_at: str


def verdict_key(layout: Layout, update: str, judged_on: int | None = None) -> str:
    """Where the evidence of an update lies; that of a version judged again beside the first."""
    return f"{layout.update(update)}/verdict{_suffix(judged_on)}.json"


def report_key(layout: Layout, update: str, judged_on: int | None = None) -> str:
    """Where the page with the evidence lies; that of a version judged again beside the first."""
    return f"{layout.update(update)}/report{_suffix(judged_on)}.html"


def decisions_of(store: ObjectStore, layout: Layout) -> dict[str, list[Decided]]:
    """Who decided what about every version, and when. Reads every head once."""
    decided: dict[str, list[Decided]] = {}
    earlier: dict[str, tuple[VersionRecord, bool]] = {}
    for head in history(store, layout):
        for record in head.versions:
            state = (record, record.version == head.champion)
            before = earlier.get(record.version)
            earlier[record.version] = state
            if before is not None and _told(*before) == _told(*state):
                continue
            decided.setdefault(record.version, []).append(
                Decided(
                    head=head.number,
                    action=head.action,
                    by=head.by,
                    reason=head.reason,
                    written_at=head.written_at,
                )
            )
    return decided


def version_page(
    store: ObjectStore,
    layout: Layout,
    head: Head,
    record: VersionRecord,
    decided: Sequence[Decided],
    *,
    run: Run | None,
    numbers: Mapping[str, int],
) -> VersionPage:
    """The page of one version, from the head, ``plan.json`` and ``verdict.json``: its verdict card.

    Its links are relative to MLflow's page, so that they hold under any address of the server.

    Args:
        store: Where everything of the lineage lies.
        layout: Of the lineage.
        head: The newest head.
        record: The version.
        decided: From ``decisions_of``.
        run: MLflow's run of its update, if there is one.
        numbers: MLflow's numbers of the versions that it knows.
    """
    plan = _plan_or_none(store, layout, record.update)
    report = _report_or_none(store, layout, record)
    has_report = store.exists(report_key(layout, record.update, record.judged_on))
    lines = [
        f"**{_state_line(head, record)}** {report.reason if report else record.reason}",
        "",
        *_card(store, layout, record, plan, report),
        "",
        *_links(layout, head, record, run, numbers, has_report=has_report),
        "",
        *_way_back(head, record),
        "",
        "**Decisions**",
        "",
        *(_decision_line(event, known=report.reason if report else "") for event in decided),
        "",
        *(_table(report.rows) if report else []),
    ]
    facts = {"code_version": _code_version(store, layout, record.version)}
    if plan is not None:
        facts["recipe"] = identity_of(plan.recipe)[:12]
    if report is not None:
        facts |= _facts(report)
    return VersionPage(
        source=f"{store.uri.rstrip('/')}/{layout.model(record.version)}",
        description="\n".join(lines),
        facts=facts,
        run_id=run.run_id if run else None,
    )


def _card(
    store: ObjectStore,
    layout: Layout,
    record: VersionRecord,
    plan: UpdatePlan | None,
    report: VerdictReport | None,
) -> list[str]:
    if record.verdict == "IMPORTED" or report is None:
        imported = record.verdict == "IMPORTED"
        return [
            "Imported base model, untrained." if imported else "Its verdict is not on record.",
            f"Reference: {', '.join(record.snapshots) or 'none'}." if imported else "",
        ]
    domains = dict.fromkeys(
        piece.domain
        for snapshot in record.snapshots
        for piece in read_snapshot_manifest(store, layout, snapshot).domains
    )
    goodput = settled(store, layout, record.update)
    card = card_of(report, plan, domains=list(domains), goodput=goodput)
    lines: list[str] = []
    for line in card:
        if len(line.texts) == 1:
            lines.append(f"- **{line.title}**: {_cell(line.texts[0])}")
        else:
            lines += [f"- **{line.title}**:", *(f"    - {_cell(text)}" for text in line.texts)]
    return lines


def _facts(report: VerdictReport) -> dict[str, str]:
    """What versions are searched by in MLflow, in nats per token."""
    figures = figures_of(report)
    named = {"gain": GAIN, "worst_loss": WORST_LOSS, "worst_forgetting": f"{FORGETTING}/worst"}
    return {
        tag: f"{figures[name]:.4f}" if name in figures else "none" for tag, name in named.items()
    }


def _state_line(head: Head, record: VersionRecord) -> str:
    in_use = ", in use" if record.version == head.champion else ""
    return f"{record.verdict}: {_DECISIONS[record.decision]}{in_use}."


def _table(rows: Sequence[DomainRow]) -> list[str]:
    """Differences are candidate minus the other, in nats per token: below 0 is better."""
    lines = [
        "| domain | role | test | against | its nats/token | candidate | difference | upper bound "
        "| margin | |",
        "|---|---|---|---|---:|---:|---:|---:|---:|---|",
    ]
    for row in rows[:_TABLE_ROWS]:
        shown = "" if row.test == "shown" else "ok" if row.passed else "not shown"
        lines.append(
            f"| {_cell(row.domain)} | {row.role} | {row.test} | {_cell(row.against).split('-')[0]} "
            f"| {_number(row.champion_nats_per_token)} | {_number(row.candidate_nats_per_token)} "
            f"| {_signed(row.difference)} | {_signed(row.upper_bound)} | {_signed(row.margin)} "
            f"| {'VIOLATED' if row.violated else shown} |"
        )
    more = f" {len(rows) - _TABLE_ROWS} more in the report." if len(rows) > _TABLE_ROWS else ""
    return [
        *lines,
        "",
        f"Differences in nats per token; below 0 the candidate is better.{more}",
        "",
    ]


def _decision_line(event: Decided, *, known: str) -> str:
    """One line; the reason is left out where the page begins with it."""
    reason = f": {_cell(event.reason)}" if event.reason and event.reason != known else ""
    when = event.written_at[:16].replace("T", " ")
    return f"- {when} UTC, head {event.head}: {event.action} by {_cell(event.by)}{reason}"


def _links(
    layout: Layout,
    head: Head,
    record: VersionRecord,
    run: Run | None,
    numbers: Mapping[str, int],
    *,
    has_report: bool,
) -> list[str]:
    links: list[str] = []
    if run is not None:
        run_page = f"#/experiments/{run.experiment_id}/runs/{run.run_id}"
        if has_report:
            links.append(f"[Report]({run_page}/artifacts/report.html)")
            links.append(f"[Tables]({run_page}/artifacts/tables)")
        links.append(f"[Curves]({run_page}/model-metrics)")
    children = [known.version for known in head.versions if known.parent == record.version]
    relatives = [("Parent", record.parent), *(("Child", child) for child in children[-_CHILDREN:])]
    links += [
        f"[{what} {version}](#/models/{layout.lineage}/versions/{numbers[version]})"
        for what, version in relatives
        if version is not None and version in numbers
    ]
    return [" | ".join(links)] if links else []


def _way_back(head: Head, record: VersionRecord) -> list[str]:
    if record.version == head.champion and record.parent:
        return [f"To go back to {record.parent}: `perennial rollback --reason ...`"]
    if record.decision == "published" and record.version != head.champion:
        return [f"To use it again: `perennial rollback --to {record.version} --reason ...`"]
    if record.decision in ("awaiting", "refused"):
        return [f"To publish it all the same: `perennial promote {record.version} --reason ...`"]
    return []


def _code_version(store: ObjectStore, layout: Layout, version: str) -> str:
    try:
        return read_model_manifest(store, layout.model(version)).code_version
    except NotFoundError:
        return "unknown"


def _plan_or_none(store: ObjectStore, layout: Layout, update: str) -> UpdatePlan | None:
    try:
        return load_plan(store, layout, update)
    except NotFoundError:
        return None


def _report_or_none(
    store: ObjectStore, layout: Layout, record: VersionRecord
) -> VerdictReport | None:
    try:
        return load(store, verdict_key(layout, record.update, record.judged_on), VerdictReport)
    except NotFoundError:
        return None


def _suffix(judged_on: int | None) -> str:
    return "" if judged_on is None else f"-{judged_on}"


def _told(record: VersionRecord, is_champion: bool) -> tuple[object, ...]:
    return record.verdict, record.decision, record.judged_on, is_champion


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.4f}"
