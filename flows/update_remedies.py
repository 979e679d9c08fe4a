"""The steps of ``update-model`` after no PASS: what may repair the candidate, within a budget.

Every attempt is on record as soon as it has ended (``updates/<id>/remedies.json``), so that a run
that is started again makes none twice, and none gets a second look.
"""

import logging
import time
from dataclasses import replace

from flows import update_judging as judging
from flows.ground import Ground, head_of
from flows.mirror import end_run, told_how_it_ends
from flows.steps import step
from flows.update_judging import Judged
from flows.update_steps import checkpoint_of, train
from infra.progress import duration
from storage.lease import Lease
from storage.suite import read_suite
from tasks.judge.verdict import Remedy, RemedyAttempt, VerdictReport
from tasks.remedy.attempt import (
    attempt_id,
    attempt_merges,
    judged_tokens,
    merged_plan,
    why_unjudgeable,
)
from tasks.remedy.config import RETRAININGS
from tasks.remedy.merges import Family
from tasks.remedy.record import RemedyRecord, read_record, told_remedies, write_record
from tasks.remedy.retrain import expected_seconds, retraining_plan, settings_of_retraining
from tasks.remedy.select import read_selecting_half
from tasks.remedy.triage import attempts_for
from tasks.scoring.panel import panel_of
from tasks.update_plan import UpdatePlan, load_plan

logger = logging.getLogger(__name__)


def repaired(ground: Ground, lease: Lease, plan: UpdatePlan, report: VerdictReport) -> Judged:
    """The candidate as it was judged, or what repairs it: the first attempt that passes.

    A remedy that does not pass changes nothing: the champion stays.
    """
    if report.verdict == "PASS":
        return Judged(plan=plan, report=report)
    attempts, why = attempts_for(report, ground.lineage.remedy)
    logger.info(f"{plan.version} is {report.verdict}: {report.reason} {why}")
    ended = "" if attempts else why
    # Of one that has collapsed nothing was scored that could tell.
    if attempts and not report.health.problem:
        ended = judging_obstacle(ground, plan)
    attempts = () if ended else attempts
    record = read_record(ground.store, ground.layout, plan.id) or RemedyRecord(
        update=plan.id, candidate=plan.version, champion=plan.champion or ""
    )
    made_before = {attempt.tried for attempt in record.attempts}
    for tried in (attempt for attempt in attempts if attempt not in made_before):
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
    passed = replace(judging.check(ground, made), remedies=record.attempts)
    return Judged(plan=made, report=passed, failed=failed)


@step
def judging_obstacle(ground: Ground, plan: UpdatePlan) -> str:
    """Why nothing that repairs the candidate could pass; "" when something could."""
    return why_unjudgeable(_judged_on_half(ground, plan, plan.version))


@step
def merge_and_judge(
    ground: Ground, plan: UpdatePlan, tried: tuple[Remedy, ...], version: str
) -> RemedyAttempt:
    """Make the models that some merges propose, choose one, and judge it."""
    head, check = head_of(ground), ground.lineage.check
    assert head.tokenizer is not None  # a planned update has tokenised snapshots
    family = Family(
        store=ground.store,
        layout=ground.layout,
        plan=plan,
        config=ground.lineage.remedy,
        work_dir=ground.work_dir / "remedy",
    )
    # The champion beside itself: a candidate that has collapsed was not scored on all of it.
    champion = family.champion
    evidence = judging.evidence_on(ground, champion, champion, plan.new_snapshots)
    panel = panel_of(
        ground.store,
        ground.layout,
        head=head,
        suite=read_suite(ground.store, ground.layout, head.suite or ""),
        new_snapshots=plan.new_snapshots,
        config=check,
        work_dir=ground.work_dir,
    )
    return attempt_merges(
        family,
        tried,
        read_selecting_half(family, evidence.slices, panel),
        replace(check, alpha=ground.lineage.remedy.level(check.alpha)),
        lambda name: _judged_on_half(ground, plan, name),
        update=attempt_id(plan, tried),
        version=version,
        tokenizer_prefix=head.tokenizer,
    )


@step
def judge_repaired(ground: Ground, plan: UpdatePlan, version: str) -> VerdictReport:
    """The verdict on a model that repairs the candidate of ``plan``; the same when asked again."""
    return _judged_on_half(ground, plan, version)


def _judged_on_half(ground: Ground, plan: UpdatePlan, version: str) -> VerdictReport:
    return judging.judge(ground, version, plan.champion, plan.new_snapshots, remedy_of=plan.version)


def _attempt(
    ground: Ground,
    lease: Lease,
    plan: UpdatePlan,
    record: RemedyRecord,
    tried: tuple[Remedy, ...],
) -> RemedyAttempt:
    # After the failed version; of the attempts only one that passes comes on the head.
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
    attempt = RemedyAttempt(
        tried=(remedy,),
        points=(),
        remedy=None,
        settings={},
        version="",
        update="",
        verdict=None,
        reason="",
        alpha=config.level(ground.lineage.check.alpha),
    )
    if isinstance(made, str):
        return replace(attempt, reason=made)
    needed = expected_seconds(ground.store, ground.layout, plan, made.total_tokens)
    too_long = _too_long(ground, record, needed)
    if too_long:
        return replace(attempt, reason=too_long)
    with told_how_it_ends(ground, made):
        checkpoint = checkpoint_of(train(ground, lease, made, on_behalf_of=plan.id))
        judging.export(ground, made, checkpoint)
        report = judge_repaired(ground, plan, made.version)
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
        scored_tokens=judged_tokens(report),
        seconds=time.monotonic() - began,
    )


def _rescuing_plan(ground: Ground, plan: UpdatePlan, rescue: RemedyAttempt) -> UpdatePlan:
    if rescue.remedy in RETRAININGS:
        return load_plan(ground.store, ground.layout, rescue.update)
    return merged_plan(plan, rescue)


def _too_long(ground: Ground, record: RemedyRecord, needed_seconds: float) -> str:
    """Why a retraining is not begun; "" when there is time for it."""
    left = ground.lineage.remedy.max_seconds - record.seconds
    if needed_seconds <= left:
        return ""
    return (
        f"It would take about {duration(needed_seconds)}, and {duration(left)} are left of "
        "remedy.max_seconds."
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
