"""A version that waits, judged again on today's suite because the champion is another one now."""

import logging
from dataclasses import replace

from flows.ground import Ground, find_version, head_of, whoami
from flows.questions import waiting
from flows.steps import step
from flows.update_judging import Judged, judge_in_full, publish, record_of, render_report
from flows.update_steps import extend_replay
from storage.errors import HeadMovedError
from storage.head import Head, VersionRecord, read_head
from storage.judging_again import compared_today, to_judge_again
from storage.lease import Lease
from tasks.publish import commit_verdict
from tasks.update_plan import UpdatePlan, load_plan

logger = logging.getLogger(__name__)


@step
def judge_waiting(ground: Ground, lease: Lease) -> tuple[str, ...]:
    """Judge again what waits for a person and was compared with a former champion.

    Costs the scoring of what the version was not scored on yet; all else is on record. What passes
    now is published, unless a person decides over that too.

    Returns:
        A sentence for each version.
    """
    told: list[str] = []
    # The plan of an update that was left unfinished names the champion that it is to be compared
    # with: nothing may be published before that one has its verdict.
    if lease.unfinished:
        return ()
    for record in waiting(read_head(ground.store, ground.layout)):
        try:
            judged = judge_again(
                ground, record.version, lease=lease, always_ask=ground.lineage.review.always
            )
        except HeadMovedError as moved:
            logger.info(f"{record.version} is not judged again: {moved}")
            continue
        if judged is not None:
            told.append(
                f"{judged.version} was judged again, against {judged.parent}: {judged.verdict} "
                f"({judged.decision}), {judged.reason}"
            )
            logger.info(told[-1])
    return tuple(told)


def judge_again(
    ground: Ground, version: str, *, lease: Lease | None, always_ask: bool
) -> VersionRecord | None:
    """Judge a waiting version against today's champion and commit that; None if it was already.

    The new evidence lies beside the old: ``verdict-<head>.json`` and ``report-<head>.html``. Safe
    to retry.

    Args:
        ground: Of the lineage.
        version: Its full name.
        lease: Held by an update; None when a person decides.
        always_ask: Whether it goes on waiting after a PASS.

    Raises:
        HeadMovedError: It cannot be published as the lineage is now.
    """
    while True:
        head = head_of(ground)
        record = to_judge_again(head, version)
        if record is None:
            return None
        plan = _as_planned_today(
            load_plan(ground.store, ground.layout, record.update), record, head
        )
        report = judge_in_full(ground, plan)
        record = replace(record, verdict=report.verdict, reason=report.reason)
        try:
            commit_verdict(
                ground.store,
                ground.layout,
                lease,
                report,
                record,
                html=render_report(ground, plan, (record,), report, (), always_ask=always_ask),
                extend_replay=extend_replay(ground),
                by=whoami(),
                always_ask=always_ask,
            )
        except HeadMovedError:
            logger.info(f"the champion moved while {version} was judged again; once more")
            continue
        return find_version(ground, version)


def publish_on_today(
    ground: Ground, lease: Lease, judged: Judged, warnings: tuple[str, ...]
) -> Judged:
    """Commit the verdict of an update; another one if the champion moved while it was trained.

    A person may promote what waits at any time, and hours of training are worth a second
    judgement. Nothing is repaired then: the next update does that.

    Raises:
        HeadMovedError: It cannot be published as the lineage is now.
    """
    while True:
        try:
            publish(ground, lease, judged, warnings)
        except HeadMovedError as moved:
            head = head_of(ground)
            record = compared_today(head, record_of(judged.plan, judged.report))
            if record.parent == judged.plan.champion:
                raise
            logger.info(f"{moved}; it is judged again, against {record.parent}")
            plan = _as_planned_today(judged.plan, record, head)
            judged = Judged(plan=plan, report=judge_in_full(ground, plan))
        else:
            return judged


def _as_planned_today(plan: UpdatePlan, record: VersionRecord, head: Head) -> UpdatePlan:
    """The plan of a version that waits, as if it had been made for today's comparison."""
    return replace(
        plan, champion=head.champion, snapshots=record.snapshots, suite=head.suite or plan.suite
    )
