"""What people do with a lineage: check a version again, promote, reject, roll back, unhold."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from prefect import flow

from flows import update_steps as steps
from flows.ground import Ground, open_ground, whoami
from flows.outcome import Outcome
from storage.head import read_head
from tasks import review
from tasks.review import Reviewed


@flow(name="check-model", persist_result=False)
def check_model(lineage_file: Path, *, version: str) -> Outcome:
    """Judge a version again, on the suite of today against the champion of today. Changes nothing.

    Args:
        lineage_file: The lineage's YAML.
        version: Number or name of a version.
    """
    ground = open_ground(lineage_file)
    head = read_head(ground.store, ground.layout)
    record = steps.find_version(ground, version)
    # A champion has no one above it: it is judged as it was then, against its parent.
    is_champion = head is not None and head.champion == record.version
    against = record.parent if is_champion or head is None else head.champion
    report = steps.judge(ground, record.version, against, record.snapshots)
    message = f"{record.version} against {against or 'a unigram model'}: {report.reason}"
    return steps.outcome(
        ground, head, report.verdict, message, version=record.version, details=asdict(report)
    )


@flow(name="promote-version", persist_result=False)
def promote_version(lineage_file: Path, *, version: str, reason: str) -> Outcome:
    """Make a version the champion, by a person's decision.

    Args:
        lineage_file: The lineage's YAML.
        version: Number or name of a version.
        reason: Recorded with the decision.
    """
    return _decided(
        lineage_file,
        lambda ground: review.promote(
            ground.store,
            ground.layout,
            steps.find_version(ground, version).version,
            by=whoami(),
            reason=reason,
            extend_replay=steps.extend_replay(ground),
        ),
    )


@flow(name="reject-version", persist_result=False)
def reject_version(lineage_file: Path, *, version: str, reason: str) -> Outcome:
    """Turn a version that waits for a person down; its data stays pending.

    Args:
        lineage_file: The lineage's YAML.
        version: Number or name of a version.
        reason: Recorded with the decision.
    """
    return _decided(
        lineage_file,
        lambda ground: review.reject(
            ground.store,
            ground.layout,
            steps.find_version(ground, version).version,
            by=whoami(),
            reason=reason,
        ),
    )


@flow(name="rollback", persist_result=False)
def rollback_lineage(lineage_file: Path, *, reason: str, to: str | None = None) -> Outcome:
    """Go back to an earlier champion, its trunk and its replay; what was learned since is held.

    Args:
        lineage_file: The lineage's YAML.
        reason: Recorded with the decision.
        to: Number or name of a version; the champion before if not given.
    """
    return _decided(
        lineage_file,
        lambda ground: review.rollback(
            ground.store,
            ground.layout,
            by=whoami(),
            reason=reason,
            to=steps.find_version(ground, to).version if to else None,
        ),
    )


@flow(name="unhold-snapshot", persist_result=False)
def unhold_snapshot(lineage_file: Path, *, snapshot: str, reason: str) -> Outcome:
    """Let the next update train on a snapshot that a rollback held.

    Args:
        lineage_file: The lineage's YAML.
        snapshot: Id of the held snapshot.
        reason: Recorded with the decision.
    """
    return _decided(
        lineage_file,
        lambda ground: review.unhold(
            ground.store, ground.layout, snapshot, by=whoami(), reason=reason
        ),
    )


def _decided(lineage_file: Path, decide: Callable[[Ground], Reviewed]) -> Outcome:
    """Apply a person's decision and show it in MLflow."""
    ground = open_ground(lineage_file)
    reviewed = decide(ground)
    head = steps.show_in_mlflow(ground)
    return steps.outcome(ground, head, "done", reviewed.message)
