"""What people do with a lineage: check a version again, promote, reject, roll back, unhold."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from prefect import flow
from pydantic import StringConstraints

from flows import update_judging as judging
from flows import update_steps as steps
from flows.ground import Ground, find_version, open_ground, whoami
from flows.naming import run_name
from flows.outcome import Outcome
from flows.states import ended
from storage.head import read_head
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


@flow(name="promote-version", flow_run_name=run_name, persist_result=False)
def promote_version(
    lineage_file: Path, *, version: Name, reason: Reason, by: Person = ""
) -> Outcome:
    """Make a version the champion, by a person's decision.

    Args:
        lineage_file: The lineage's YAML file, on the machine that runs the flow.
        version: Number or full name of a version, such as 12, as MLflow and the history show it.
        reason: Why; recorded with the decision, for whoever reads the history later.
        by: Who decides, recorded with it; empty: the account that runs the flow.
    """
    return _decided(
        lineage_file,
        lambda ground: review.promote(
            ground.store,
            ground.layout,
            find_version(ground, version).version,
            by=by or whoami(),
            reason=reason,
            extend_replay=steps.extend_replay(ground),
        ),
    )


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
    """Apply a person's decision and show it in MLflow."""
    ground = open_ground(lineage_file)
    reviewed = decide(ground)
    head = steps.show_in_mlflow(ground)
    return ended(steps.outcome(ground, head, "done", reviewed.message))
