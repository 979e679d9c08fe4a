"""The steps of ``update-model`` after its training: the candidate, its verdict, and what follows.

As those before it (``flows.update_steps``), each can be retried and holds no state of its own.
"""

from dataclasses import replace
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
from tasks.judge.verdict import VerdictReport
from tasks.plan import UpdatePlan
from tasks.publish import commit_verdict
from tasks.publish import export as export_candidate
from tasks.reporting.page import report_key
from tasks.scoring.check import check as score_candidate
from tasks.scoring.scores import forgetting_matrix
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
    """Score candidate and champion on the suite, and decide."""
    return judge(ground, plan.version, plan.champion, plan.new_snapshots)


@step
def publish(
    ground: Ground,
    lease: Lease,
    plan: UpdatePlan,
    report: VerdictReport,
    warnings: tuple[str, ...] = (),
) -> Head:
    """Commit the verdict with its evidence: publish, or record why not."""
    record = VersionRecord(
        version=plan.version,
        update=plan.id,
        verdict=report.verdict,
        decision="awaiting",
        parent=plan.champion,
        trunk=plan.train.trunk,
        snapshots=plan.snapshots,
        replay=plan.replay,
        on_head=0,
        reason=report.reason,
    )
    html = render_report(ground, plan, record, report, warnings)
    head = commit_verdict(
        ground.store,
        ground.layout,
        lease,
        report,
        record,
        html=html,
        extend_replay=extend_replay(ground),
        by=whoami(),
        always_ask=ground.lineage.review.always,
    )
    lease.finish()
    return head


def judge(
    ground: Ground, version: str, champion: str | None, snapshots: tuple[str, ...]
) -> VerdictReport:
    """The verdict on a version against a champion, on the suite of today."""
    head = head_of(ground)
    assert head.suite is not None  # every snapshot comes with a suite
    evidence = score_candidate(
        ground.store,
        ground.layout,
        candidate=version,
        champion=champion,
        suite=read_suite(ground.store, ground.layout, head.suite),
        head=head,
        new_snapshots=snapshots,
        work_dir=ground.work_dir,
    )
    return decide(
        evidence.slices,
        ground.lineage.check,
        health=evidence.health,
        candidate=version,
        champion=champion,
        unguarded_base=evidence.unguarded_base,
        suite=head.suite,
    )


def judged(
    ground: Ground,
    head: Head | None,
    plan: UpdatePlan,
    report: VerdictReport,
    warnings: tuple[str, ...] = (),
) -> Outcome:
    """What an update ends with."""
    waits = next((known for known in waiting(head) if known.update == plan.id), None)
    if waits is not None:
        next_step = how_to_decide(ground, waits)
    elif report.verdict == "FAIL":
        next_step = f"nothing was published, the champion stays {plan.champion or '(none)'}"
    else:
        next_step = f"{plan.version} is the champion now"
    key = report_key(ground.layout, plan.id)
    path = ground.store.local_path(key)
    account = settled(ground.store, ground.layout, plan.id)
    return outcome(
        ground,
        head,
        "awaiting" if waits is not None and report.verdict == "PASS" else report.verdict,
        f"{report.reason}\n{next_step}",
        version=plan.version,
        report=str(path) if path else f"{ground.store.uri}/{key}",
        details={"goodput": account.figures()} if account is not None else {},
        warnings=warnings,
    )


def render_report(
    ground: Ground,
    plan: UpdatePlan,
    record: VersionRecord,
    report: VerdictReport,
    warnings: tuple[str, ...],
) -> str:
    """The page with the evidence of a verdict."""
    # Not at the top: the page and its metrics are needed only when there is a verdict.
    from tasks.reporting.report import ReportInput, render  # noqa: PLC0415
    from training.metrics import read_metrics  # noqa: PLC0415

    head = head_of(ground)
    page = ReportInput(
        plan=plan,
        verdict=report,
        matrix=forgetting_matrix(
            ground.store,
            ground.layout,
            # As it will be when the verdict is committed: the candidate is the last row.
            replace(head, versions=(*head.versions, record)),
            read_suite(ground.store, ground.layout, report.suite),
        ),
        snapshots=tuple(
            read_snapshot(ground.store, ground.layout, snapshot) for snapshot in plan.snapshots
        ),
        metrics=read_metrics(ground.store, ground.layout.metrics(plan.id)),
        goodput=settled(ground.store, ground.layout, plan.id),
        code_version=code_version(),
        written_at=datetime.now(UTC).isoformat(timespec="seconds"),
        warnings=warnings,
    )
    return render(page)
