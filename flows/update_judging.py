"""The steps of ``update-model`` after its training: the candidate, its verdict, and what follows.

As those before it (``flows.update_steps``), each can be retried and holds no state of its own.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime

from flows.ground import Ground, head_of, whoami
from flows.outcome import Outcome
from flows.questions import how_to_decide, waiting
from flows.steps import step
from flows.update_steps import extend_replay, outcome
from infra.versions import code_version
from storage.head import Head, VersionRecord
from storage.lease import Lease
from storage.snapshots import read_snapshot
from storage.suite import read_suite
from tasks.judge.decide import decide
from tasks.judge.halves import half_of_slices, half_of_tasks
from tasks.judge.numbers import Numbers
from tasks.judge.verdict import VerdictReport
from tasks.publish import Evidence, commit_verdict
from tasks.publish import export as export_candidate
from tasks.remedy.record import told_remedies
from tasks.reporting.page import report_key
from tasks.scoring.check import CheckResult
from tasks.scoring.check import check as score_candidate
from tasks.scoring.place import Place
from tasks.scoring.scores import forgetting_matrix
from tasks.update_plan import UpdatePlan, save_plan
from training.goodput import settled


@step
def export(ground: Ground, plan: UpdatePlan, checkpoint: str) -> str:
    """The candidate as a Hugging Face directory, read back and compared."""
    head = head_of(ground)
    assert head.tokenizer is not None  # a planned update has tokenised snapshots
    return export_candidate(
        ground.store,
        ground.layout,
        checkpoint_prefix=checkpoint,
        version=plan.version,
        tokenizer_prefix=head.tokenizer,
        plan=plan.train,
        work_dir=ground.work_dir,
    )


@step
def check(ground: Ground, plan: UpdatePlan) -> VerdictReport:
    """Score candidate and champion on the suite, decide, and add the numbers beside the verdict."""
    return judge_in_full(ground, plan)


def judge_in_full(ground: Ground, plan: UpdatePlan) -> VerdictReport:
    """The verdict on what a plan has made, with the numbers beside it; as ``judge`` otherwise."""
    # Not at the top: needed only when there is something to judge.
    from tasks.scoring.beside import numbers_beside  # noqa: PLC0415
    from training.metrics import read_metrics  # noqa: PLC0415

    report = judge(
        ground, plan.version, plan.champion, plan.new_snapshots, remedy_of=plan.remedy_of
    )
    numbers = numbers_beside(
        ground.store,
        ground.layout,
        head_of(ground),
        read_suite(ground.store, ground.layout, report.suite),
        record_of(plan, report),
        scored=report.numbers or Numbers(),
        plan=plan.train,
        metrics=read_metrics(ground.store, ground.layout.metrics(plan.train.update)),
        work_dir=ground.work_dir,
    )
    return replace(report, numbers=numbers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A candidate with its verdict, and the failed one that it repairs, if it does."""

    plan: UpdatePlan
    report: VerdictReport
    failed: "Judged | None" = None


@step
def publish(ground: Ground, lease: Lease, judged: Judged, warnings: tuple[str, ...] = ()) -> Head:
    """Commit the verdict with its evidence: publish, or record why not."""
    failed = _evidence_of(ground, judged.failed, warnings) if judged.failed else None
    evidence = _evidence_of(
        ground, judged, warnings, before=(failed.record,) if failed is not None else ()
    )
    # A merge was not trained, so that nothing has stored what it is made of yet.
    save_plan(ground.store, ground.layout, judged.plan)
    head = commit_verdict(
        ground.store,
        ground.layout,
        lease,
        evidence.report,
        evidence.record,
        html=evidence.html,
        extend_replay=extend_replay(ground),
        by=whoami(),
        failed=failed,
        always_ask=ground.lineage.review.always,
    )
    lease.finish()
    return head


def _evidence_of(
    ground: Ground,
    judged: Judged,
    warnings: tuple[str, ...],
    *,
    before: tuple[VersionRecord, ...] = (),
) -> Evidence:
    """``before`` are versions that are committed with it."""
    plan, report = judged.plan, judged.report
    record = record_of(plan, report)
    html = render_report(
        ground,
        plan,
        (*before, record),
        report,
        warnings,
        always_ask=ground.lineage.review.always,
    )
    return Evidence(record=record, report=report, html=html)


def judge(
    ground: Ground,
    version: str,
    champion: str | None,
    snapshots: tuple[str, ...],
    *,
    remedy_of: str = "",
) -> VerdictReport:
    """The verdict on a version against a champion, on the suite of today.

    What repairs ``remedy_of`` is judged on the half of the items that has selected nothing, at the
    level that one attempt has.
    """
    head = head_of(ground)
    evidence = evidence_on(ground, version, champion, snapshots)
    config = ground.lineage.check
    slices, tasks = (*evidence.slices, *evidence.texts), evidence.tasks
    if remedy_of:
        config = replace(config, alpha=ground.lineage.remedy.level(config.alpha))
        slices, tasks = half_of_slices(slices, "judge"), half_of_tasks(tasks, "judge")
    report = decide(
        slices,
        config,
        tasks=tasks,
        health=evidence.health,
        candidate=version,
        champion=champion,
        unguarded_base=evidence.unguarded_base,
        suite=head.suite or "",
    )
    return replace(report, remedy_of=remedy_of, numbers=evidence.numbers)


def evidence_on(
    ground: Ground, version: str, champion: str | None, snapshots: tuple[str, ...]
) -> CheckResult:
    """What a verdict on a version against a champion rests on."""
    head = head_of(ground)
    assert head.suite is not None  # every snapshot comes with a suite
    return score_candidate(
        ground.store,
        ground.layout,
        candidate=version,
        champion=champion,
        suite=read_suite(ground.store, ground.layout, head.suite),
        head=head,
        new_snapshots=snapshots,
        work_dir=ground.work_dir,
        config=ground.lineage.check,
        place=Place(
            store_uri=ground.settings.store_uri,
            compute=ground.lineage.compute,
            ray_address=ground.settings.ray_cluster,
        ),
    )


def judged(
    ground: Ground,
    head: Head | None,
    judged: Judged,
    warnings: tuple[str, ...] = (),
) -> Outcome:
    """What an update ends with."""
    plan, report = judged.plan, judged.report
    waits = next((known for known in waiting(head) if known.update == plan.id), None)
    if waits is not None:
        next_step = how_to_decide(ground, waits)
    elif report.verdict == "FAIL":
        next_step = f"nothing was published, the champion stays {plan.champion or '(none)'}"
    else:
        next_step = f"{plan.version} is the champion now"
    account = settled(ground.store, ground.layout, plan.train.update)
    return outcome(
        ground,
        head,
        "awaiting" if waits is not None and report.verdict == "PASS" else report.verdict,
        "\n".join([report.reason, *told_remedies(report), next_step]),
        version=plan.version,
        report=ground.place_of(report_key(ground.layout, plan.id)),
        details={"goodput": account.figures()} if account is not None else {},
        warnings=warnings,
    )


def record_of(plan: UpdatePlan, report: VerdictReport) -> VersionRecord:
    """The candidate with its verdict; decision and head numbers are set when it is committed."""
    return VersionRecord(
        version=plan.version,
        update=plan.id,
        verdict=report.verdict,
        decision="awaiting",
        parent=plan.champion,
        trunk=plan.next_trunk,
        snapshots=plan.snapshots,
        replay=plan.replay,
        on_head=0,
        reason=report.reason,
        remedy=plan.remedy,
        remedy_of=plan.remedy_of or None,
        merged_from=plan.merged_from,
    )


def render_report(
    ground: Ground,
    plan: UpdatePlan,
    records: tuple[VersionRecord, ...],
    report: VerdictReport,
    warnings: tuple[str, ...],
    *,
    always_ask: bool,
) -> str:
    """The page with the evidence of a verdict; with ``always_ask`` a PASS waits for a person."""
    # Not at the top: the page and its metrics are needed only when there is a verdict.
    from tasks.reporting.report import ReportInput, render  # noqa: PLC0415
    from training.metrics import read_metrics  # noqa: PLC0415

    head = head_of(ground)
    judged = {record.update for record in records}
    others = tuple(known for known in head.versions if known.update not in judged)
    page = ReportInput(
        plan=plan,
        verdict=report,
        matrix=forgetting_matrix(
            ground.store,
            ground.layout,
            # As it will be when the verdict is committed: the candidate is the last row.
            replace(head, versions=(*others, *records)),
            read_suite(ground.store, ground.layout, report.suite),
        ),
        snapshots=tuple(
            read_snapshot(ground.store, ground.layout, snapshot) for snapshot in plan.snapshots
        ),
        # Of its own training, or of that whose model a remedy has merged.
        metrics=read_metrics(ground.store, ground.layout.metrics(plan.train.update)),
        goodput=settled(ground.store, ground.layout, plan.train.update),
        code_version=code_version(),
        written_at=datetime.now(UTC).isoformat(timespec="seconds"),
        warnings=warnings,
        always_ask=always_ask,
    )
    return render(page)
