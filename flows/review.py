"""What people do with a lineage: check a version, answer, promote, reject, roll back, unhold."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from prefect import flow
from pydantic import StringConstraints

from flows import update_judging as judging
from flows import update_steps as steps
from flows.form import Answer, hear, suspended
from flows.ground import Ground, find_version, open_ground, whoami
from flows.judging_again import judge_again
from flows.naming import question_name, run_name
from flows.outcome import Kind, Outcome
from flows.question_text import question_text
from flows.questions import REVIEW, settle_questions, told_decision
from flows.states import ended
from storage.errors import HeadMovedError
from storage.head import VersionRecord, read_head
from tasks import review
from tasks.review import Reviewed

Name = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\s]+$")]
"""Of a version or a snapshot."""
Person = Annotated[str, StringConstraints(max_length=100)]
Reason = Annotated[str, StringConstraints(min_length=1, max_length=2000, pattern=r"\S")]


@flow(name="check-model", flow_run_name=run_name, persist_result=False)
def check_model(lineage_file: Path, *, version: Name) -> Outcome:
    """Judge a version again, on the suite of today against the champion of today. Changes nothing.

    Args:
        lineage_file: The lineage's YAML file, on the machine that runs the flow.
        version: Number or full name of a version, such as 12, as MLflow and the history show it.
    """
    ground = open_ground(lineage_file)
    head = read_head(ground.store, ground.layout)
    record = find_version(ground, version)
    # A champion has no one above it: it is judged as it was then, against its parent.
    is_champion = head is not None and head.champion == record.version
    against = record.parent if is_champion or head is None else head.champion
    report = judging.judge(
        ground, record.version, against, record.snapshots, remedy_of=record.remedy_of or ""
    )
    message = f"{record.version} against {against or 'a unigram model'}: {report.reason}"
    outcome = steps.outcome(
        ground, head, report.verdict, message, version=record.version, details=asdict(report)
    )
    return ended(outcome)


@flow(name=REVIEW, flow_run_name=question_name, persist_result=False)
def review_version(lineage_file: Path, *, version: Name) -> Outcome:
    """Ask whether a version that waits for a person is published, and do as the answer says.

    Started by itself for each version that waits. The run is suspended, and needs no process, until
    somebody presses Resume on its page and fills the form. Ends in the state Decided when the
    decision was made elsewhere.

    Args:
        lineage_file: The lineage's YAML file, on the machine that runs the flow.
        version: Number or full name of a version, such as 12, as MLflow and the history show it.
    """
    ground = open_ground(lineage_file)
    record = find_version(ground, version)
    heard = hear(record.on_head)
    # A refused one is still asked about when an approval had it judged again.
    if record.decision != "awaiting" and not (record.decision == "refused" and heard.was_asked):
        told = told_decision(ground.store, ground.layout, record)
        head = read_head(ground.store, ground.layout)
        return ended(steps.outcome(ground, head, "decided", told, version=record.version))
    complaint = heard.complaint
    if heard.answer is not None:
        try:
            outcome = _answered(ground, record, heard.answer)
        except (HeadMovedError, ValueError) as error:
            complaint = f"{heard.answer.decision} was not possible: {error}"
        else:
            if outcome.kind != "FAIL":
                return ended(outcome)
            complaint = outcome.message
            record = find_version(ground, version)
            heard = hear(record.on_head)
    raise suspended(record.on_head, heard.attempt, question_text(ground, record, complaint))


@flow(name="promote-version", flow_run_name=run_name, persist_result=False)
def promote_version(
    lineage_file: Path, *, version: Name, reason: Reason, by: Person = ""
) -> Outcome:
    """Make a version the champion, by a person's decision.

    One that waits is judged again first when the champion has moved meanwhile. Is it FAIL now, it
    is not promoted; who insists promotes it once more.

    Args:
        lineage_file: The lineage's YAML file, on the machine that runs the flow.
        version: Number or full name of a version, such as 12, as MLflow and the history show it.
        reason: Why; recorded with the decision, for whoever reads the history later.
        by: Who decides, recorded with it; empty: the account that runs the flow.
    """
    ground = open_ground(lineage_file)
    record = find_version(ground, version)
    return ended(_promoted(ground, record, by=by or whoami(), reason=reason))


@flow(name="reject-version", flow_run_name=run_name, persist_result=False)
def reject_version(
    lineage_file: Path, *, version: Name, reason: Reason, by: Person = ""
) -> Outcome:
    """Turn a version that waits for a person down; its data stays pending.

    Args:
        lineage_file: The lineage's YAML file, on the machine that runs the flow.
        version: Number or full name of a version, such as 12, as MLflow and the history show it.
        reason: Why; recorded with the decision, for whoever reads the history later.
        by: Who decides, recorded with it; empty: the account that runs the flow.
    """
    return _decided(
        lineage_file,
        lambda ground: review.reject(
            ground.store,
            ground.layout,
            find_version(ground, version).version,
            by=by or whoami(),
            reason=reason,
        ),
    )


@flow(name="rollback-lineage", flow_run_name=run_name, persist_result=False)
def rollback_lineage(
    lineage_file: Path, *, reason: Reason, to: Name | None = None, by: Person = ""
) -> Outcome:
    """Go back to an earlier champion, its trunk and its replay; what was learned since is held.

    Args:
        lineage_file: The lineage's YAML file, on the machine that runs the flow.
        reason: Why; recorded with the decision, for whoever reads the history later.
        to: Number or full name of the version to go back to; empty: the champion before.
        by: Who decides, recorded with it; empty: the account that runs the flow.
    """
    return _decided(
        lineage_file,
        lambda ground: review.rollback(
            ground.store,
            ground.layout,
            by=by or whoami(),
            reason=reason,
            to=find_version(ground, to).version if to else None,
        ),
    )


@flow(name="unhold-snapshot", flow_run_name=run_name, persist_result=False)
def unhold_snapshot(
    lineage_file: Path, *, snapshot: Name, reason: Reason, by: Person = ""
) -> Outcome:
    """Let the next update train on a snapshot that a rollback held.

    Args:
        lineage_file: The lineage's YAML file, on the machine that runs the flow.
        snapshot: Id of the held snapshot, as 'perennial status' shows it.
        reason: Why; recorded with the decision, for whoever reads the history later.
        by: Who decides, recorded with it; empty: the account that runs the flow.
    """
    return _decided(
        lineage_file,
        lambda ground: review.unhold(
            ground.store, ground.layout, snapshot, by=by or whoami(), reason=reason
        ),
    )


def _decided(lineage_file: Path, decide: Callable[[Ground], Reviewed]) -> Outcome:
    """Apply a person's decision, and show it in MLflow and Prefect."""
    ground = open_ground(lineage_file)
    return ended(_shown(ground, decide(ground).message))


def _answered(ground: Ground, record: VersionRecord, answer: Answer) -> Outcome:
    """Do what the form says.

    Raises:
        HeadMovedError: It cannot be promoted as the lineage is now.
        ValueError: It cannot be decided over like that.
    """
    if answer.decision == "approve":
        return _promoted(ground, record, by=answer.by, reason=answer.comment)
    if record.decision == "refused":
        return _shown(ground, f"{record.version} stays refused: {record.reason}")
    reviewed = review.reject(
        ground.store, ground.layout, record.version, by=answer.by, reason=answer.comment
    )
    return _shown(ground, reviewed.message)


def _promoted(ground: Ground, record: VersionRecord, *, by: str, reason: str) -> Outcome:
    """Promote; or the new verdict, when what waited is FAIL against today's champion."""
    again = judge_again(ground, record.version, lease=None, always_ask=True)
    if again is not None and again.verdict == "FAIL":
        return _shown(
            ground,
            f"{again.version} is not promoted: the champion moved while it waited, it was judged "
            f"again, against {again.parent}, and is FAIL now: {again.reason}\n"
            "to publish it all the same, approve it once more",
            kind="FAIL",
        )
    reviewed = review.promote(
        ground.store,
        ground.layout,
        record.version,
        by=by,
        reason=reason,
        extend_replay=steps.extend_replay(ground),
    )
    judged = f"judged again, against {again.parent}: {again.verdict}; " if again else ""
    return _shown(ground, f"{judged}{reviewed.message}")


def _shown(ground: Ground, message: str, *, kind: Kind = "done") -> Outcome:
    """The end of a decision, which MLflow and the open questions in Prefect are told."""
    head = steps.show_in_mlflow(ground)
    settle_questions(ground)
    return steps.outcome(ground, head, kind, message)
