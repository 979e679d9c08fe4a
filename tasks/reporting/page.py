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
from tasks.judge.verdict import ALL_NEW, DomainRow, VerdictReport
from tasks.plan import UpdatePlan, load_plan

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
    """The page of one version, from the head, ``plan.json`` and ``verdict.json``.

    Its links are relative to MLflow's page, so that they hold under any address of the server.

    Args:
        store: Where everything of the lineage lies.
        layout: Of the lineage.
        head: The newest head.
        record: The version.
        decided: From ``decisions_of``.
        run: MLflow's run of its update, if there is one.
        numbers: MLflow's numbers of the versions before it.
    """
    plan = _plan_or_none(store, layout, record.update)
    report = _report_or_none(store, layout, record)
    has_report = store.exists(report_key(layout, record.update, record.judged_on))
    lines = [
        f"**{_state_line(head, record)}** {report.reason if report else record.reason}",
        "",
        *(_balance(report) if report else []),
        *_links(layout, record, run, numbers, has_report=has_report),
        "",
        *_what_changed(record, plan),
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
    return VersionPage(
        source=f"{store.uri.rstrip('/')}/{layout.model(record.version)}",
        description="\n".join(lines),
        facts=facts,
        run_id=run.run_id if run else None,
    )


def _suffix(judged_on: int | None) -> str:
    return "" if judged_on is None else f"-{judged_on}"


def _told(record: VersionRecord, is_champion: bool) -> tuple[object, ...]:
    return record.verdict, record.decision, record.judged_on, is_champion


def _state_line(head: Head, record: VersionRecord) -> str:
    in_use = ", in use" if record.version == head.champion else ""
    return f"{record.verdict}: {_DECISIONS[record.decision]}{in_use}."


def _what_changed(record: VersionRecord, plan: UpdatePlan | None) -> list[str]:
    if record.verdict == "IMPORTED":
        return [
            "Imported base model, untrained.",
            f"Reference: {', '.join(record.snapshots) or 'none'}.",
        ]
    lines = [
        "**What went in**",
        "",
        f"- new data: {', '.join(map(_short, record.snapshots)) or 'none'}",
        f"- replay: {_short(record.replay) if record.replay else 'none'}",
    ]
    if plan is not None:
        lines[2] += f", {plan.new_tokens:,} tokens"
        if record.replay:
            lines[3] += f", {plan.replay_share:.1%} of what it was trained on"
        lines.append(
            f"- training: {plan.train.num_steps:,} steps, {plan.total_tokens:,} tokens, "
            f"{plan.train.schedule.kind} schedule, eta_max {plan.train.schedule.eta_max:g}"
        )
        origin = plan.train.taken_over
        if origin is not None:
            lines.append(
                f"- begun with: step {origin.step:,} of update {origin.update} ({origin.mode})"
            )
    return [*lines, *_how_repaired(record)]


def _how_repaired(record: VersionRecord) -> list[str]:
    if record.remedy_of is None:
        return []
    merged = f", merged from {' and '.join(record.merged_from)}" if record.merged_from else ""
    return [f"- repairs {record.remedy_of}, which failed: {record.remedy}{merged}"]


def _table(rows: Sequence[DomainRow]) -> list[str]:
    """Differences are candidate minus the other, in nats per token: below 0 is better."""
    lines = [
        "| domain | role | test | against | its nats/token | candidate | difference | upper bound "
        "| margin | |",
        "|---|---|---|---|---:|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        shown = "" if row.test == "shown" else "ok" if row.passed else "not shown"
        lines.append(
            f"| {_cell(row.domain)} | {row.role} | {row.test} | {_cell(row.against).split('-')[0]} "
            f"| {_number(row.champion_nats_per_token)} | {_number(row.candidate_nats_per_token)} "
            f"| {_signed(row.difference)} | {_signed(row.upper_bound)} | {_signed(row.margin)} "
            f"| {'VIOLATED' if row.violated else shown} |"
        )
    return [*lines, "", "Differences in nats per token; below 0 the candidate is better.", ""]


def _balance(report: VerdictReport) -> list[str]:
    """What got better and what got worse, against the model in use, with the bounds."""
    judged = [row for row in report.rows if row.test in ("gain", "loss")]
    better = [row for row in judged if row.difference is not None and row.difference < 0]
    worse = [row for row in judged if row.difference is not None and row.difference >= 0]
    return [
        *(f"- better: {_balance_of(row, report.config.alpha)}" for row in better),
        *(f"- worse: {_balance_of(row, report.config.alpha)}" for row in worse),
        *([] if better else ["- better: nothing"]),
        *([] if worse else ["- worse: nothing"]),
        "",
    ]


def _balance_of(row: DomainRow, alpha: float) -> str:
    known = row.candidate_nats_per_token is not None and row.champion_nats_per_token is not None
    change = f"{_signed(row.difference)} nats/token"
    if known:
        before, now = _number(row.champion_nats_per_token), _number(row.candidate_nats_per_token)
        change = f"{before} to {now} nats/token ({_signed(row.difference)})"
    bound = ""
    if row.upper_bound is not None and row.margin is not None:
        asked = "required" if row.test == "gain" else "tolerated"
        bound = (
            f", {1 - alpha:.0%} sure of at most {_signed(row.upper_bound)}; {asked}: "
            f"{_signed(row.margin)}"
        )
    name = _cell(row.domain) if row.domain == ALL_NEW else f"{row.role} {_cell(row.domain)}"
    return f"{name}, {change}{bound}"


def _decision_line(event: Decided, *, known: str) -> str:
    """One line; the reason is left out where the page begins with it."""
    reason = f": {_cell(event.reason)}" if event.reason and event.reason != known else ""
    when = event.written_at[:16].replace("T", " ")
    return f"- {when} UTC, head {event.head}: {event.action} by {_cell(event.by)}{reason}"


def _links(
    layout: Layout,
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
        links.append(f"[Curves]({run_page}/model-metrics)")
    if record.parent is not None and record.parent in numbers:
        parent = f"#/models/{layout.lineage}/versions/{numbers[record.parent]}"
        links.append(f"[Parent {record.parent}]({parent})")
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


def _short(identity: str) -> str:
    """Enough of a snapshot's or replay version's id to tell it from others."""
    return f"`{identity[:12]}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.4f}"
