"""The steps of ``update-model`` after a FAIL: what may repair the candidate, within a budget.

Every attempt is on record as soon as it has ended (``updates/<id>/remedies.json``), so that a run
that is started again makes none twice, and none gets a second look.
"""

import logging
import time
from dataclasses import replace

from flows.ground import Ground, head_of
from flows.mirror import end_run, told_how_it_ends
from flows.steps import step
from flows.update_judging import Judged, export, with_numbers
from flows.update_steps import checkpoint_of, train
from infra.progress import duration
from storage.lease import Lease
from tasks.judge.verdict import Remedy, RemedyAttempt, VerdictReport
from tasks.plan import UpdatePlan, load_plan
from tasks.remedy.attempt import (
    Bench,
    attempt_id,
    attempt_merges,
    judge_on_half,
    merged_plan,
    why_unjudgeable,
)
from tasks.remedy.config import RETRAININGS
from tasks.remedy.merges import Family
from tasks.remedy.record import RemedyRecord, read_record, told_remedies, write_record
from tasks.remedy.retrain import expected_seconds, retraining_plan, settings_of_retraining
from tasks.remedy.triage import attempts_for

logger = logging.getLogger(__name__)


def repaired(ground: Ground, lease: Lease, plan: UpdatePlan, report: VerdictReport) -> Judged:
    """The candidate as it was judged, or what repairs it: the first attempt that passes.

    A remedy that does not pass changes nothing: the champion stays.
    """
    if report.verdict != "FAIL":
        return Judged(plan=plan, report=report)
    attempts, why = attempts_for(report, ground.lineage.remedy)
    logger.info(f"{plan.version} failed: {report.reason} {why}")
    ended = judging_obstacle(ground, plan) if attempts else why
    attempts = () if ended else attempts
    record = read_record(ground.store, ground.layout, plan.id) or RemedyRecord(
        update=plan.id, candidate=plan.version, champion=plan.champion or ""
    )
    for tried in attempts[len(record.attempts) :]:
        ended = _spent(ground, record)
        if ended or record.rescue:
            break
        logger.info(f"remedy {len(record.attempts) + 1} of {len(attempts)}: {_named(tried)}")
        attempt = _attempt(ground, lease, plan, record, tried)
        record = replace(record, attempts=(*record.attempts, attempt))
        write_record(ground.store, ground.layout, record)
        logger.info(told_remedies(replace(report, remedies=record.attempts))[-1])
    failed = _with_remedies(plan, report, record, ended)
    if record.rescue is None:
        return failed
    made = _rescuing_plan(ground, plan, record.rescue)
    report = with_numbers(ground, made, judge_again(ground, made))
    passed = replace(report, remedies=record.attempts)
    return Judged(plan=made, report=passed, failed=failed)


@step
def judging_obstacle(ground: Ground, plan: UpdatePlan) -> str:
    """Why nothing that repairs the candidate could pass; "" when something could."""
    return why_unjudgeable(_bench(ground), plan)


@step
def merge_and_judge(
    ground: Ground, plan: UpdatePlan, tried: tuple[Remedy, ...], version: str
) -> RemedyAttempt:
    """Make the models that some merges propose, choose one, and judge it."""
    family = Family(
        store=ground.store,
        layout=ground.layout,
        plan=plan,
        config=ground.lineage.remedy,
        work_dir=ground.work_dir / "remedy",
    )
    update = attempt_id(plan, tried)
    return attempt_merges(_bench(ground), family, tried, update=update, version=version)


@step
def judge_again(ground: Ground, plan: UpdatePlan) -> VerdictReport:
    """The verdict on a repaired model by the half of the items that judges; all on record."""
    return judge_on_half(_bench(ground), plan.version, plan)


def _attempt(
    ground: Ground,
    lease: Lease,
    plan: UpdatePlan,
    record: RemedyRecord,
    tried: tuple[Remedy, ...],
) -> RemedyAttempt:
    # After the failed version, and any that was trained again before this one.
    number = int(plan.version.partition("-")[0]) + 1
    if tried[0] in RETRAININGS:
        return _train_again(ground, lease, plan, record, tried[0], number)
    version = f"{number}-{attempt_id(plan, tried)[:8]}"
    return merge_and_judge(ground, plan, tried, version)


def _train_again(
    ground: Ground,
    lease: Lease,
    plan: UpdatePlan,
    record: RemedyRecord,
    remedy: Remedy,
    number: int,
) -> RemedyAttempt:
    """A retraining from the trunk, which is an update of its own, and its verdict.

    Raises:
        TrainingStoppedError: It was asked to stop; the next run goes on with it.
    """
    config = ground.lineage.remedy
    began = time.monotonic()
    made = retraining_plan(
        ground.store,
        ground.layout,
        head_of(ground),
        plan,
        remedy,
        config,
        number=number,
        max_tokens=int(config.max_retraining * plan.total_tokens) - record.trained_tokens,
    )
    bench = _bench(ground)
    attempt = RemedyAttempt(
        tried=(remedy,),
        points=(),
        remedy=None,
        settings={},
        version="",
        update="",
        verdict=None,
        reason="",
        alpha=bench.config.alpha,
    )
    if isinstance(made, str):
        return replace(attempt, reason=made)
    needed = expected_seconds(ground.store, ground.layout, plan, made.total_tokens)
    left = config.max_seconds - record.seconds
    if needed > left:
        return replace(
            attempt,
            reason=f"It would take about {duration(needed)}, and {duration(left)} are left of "
            "remedy.max_seconds.",
        )
    with told_how_it_ends(ground, made):
        checkpoint = checkpoint_of(train(ground, lease, made, on_behalf_of=plan.id))
        export(ground, made, checkpoint)
        report = judge_again(ground, made)
    if report.verdict != "PASS":
        end_run(ground, made, "FAILED", f"a remedy that did not pass: {report.reason}")
    return replace(
        attempt,
        remedy=remedy,
        settings=settings_of_retraining(made, remedy),
        version=made.version,
        update=made.id,
        verdict=report.verdict,
        reason=report.reason,
        rows=report.rows,
        trained_tokens=made.total_tokens,
        scored_tokens=sum(item.tokens for item in bench.suite.slices),
        seconds=time.monotonic() - began,
    )


def _rescuing_plan(ground: Ground, plan: UpdatePlan, rescue: RemedyAttempt) -> UpdatePlan:
    if rescue.remedy in RETRAININGS:
        return load_plan(ground.store, ground.layout, rescue.update)
    return merged_plan(plan, rescue)


def _bench(ground: Ground) -> Bench:
    check = ground.lineage.check
    return Bench(
        store=ground.store,
        layout=ground.layout,
        head=head_of(ground),
        config=replace(check, alpha=ground.lineage.remedy.level(check.alpha)),
        work_dir=ground.work_dir,
    )


def _spent(ground: Ground, record: RemedyRecord) -> str:
    """Why no other attempt is begun; "" while there is time."""
    limit = ground.lineage.remedy.max_seconds
    if record.seconds < limit:
        return ""
    return f"The remedies have taken {duration(record.seconds)} of {duration(limit)}."


def _with_remedies(
    plan: UpdatePlan, report: VerdictReport, record: RemedyRecord, ended: str
) -> Judged:
    """The failed candidate with what was tried, and why nothing else was."""
    told = (ended,) if ended and record.rescue is None else ()
    with_attempts = replace(report, remedies=record.attempts)
    reasons = (*report.reasons, *told_remedies(with_attempts), *told)
    return Judged(plan=plan, report=replace(with_attempts, reasons=reasons))


def _named(tried: tuple[Remedy, ...]) -> str:
    return ", ".join(remedy.replace("_", " ") for remedy in tried)
