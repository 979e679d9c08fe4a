"""Publish a judged candidate: export it, check the export, commit the verdict with its evidence.

The order is what makes a crash harmless: the model's manifest, then the evidence, then the head.
MLflow comes last (``tasks.mirror``) and is only a picture of the head.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from storage.errors import AlreadyExistsError
from storage.head import Head, VersionRecord, commit_change, read_head
from storage.layout import Layout
from storage.lease import Lease
from storage.manifest import readable_json
from storage.models import fetch_model, is_published, read_model_manifest
from storage.objects import ObjectStore
from storage.replay import next_replay, publish_replay, read_replay
from storage.snapshots import read_snapshot
from storage.transitions import with_verdict
from tasks.ancestors import with_takedowns
from tasks.judge.verdict import VerdictReport
from tasks.model_export import export_model, load_trained
from tasks.reporting.page import report_key, verdict_key
from training.config import TrainPlan

ExtendReplay = Callable[[Head, tuple[str, ...]], str]
"""Publishes the replay version with the head's strata and these snapshots; returns its id.
Called again on a newer head when somebody else was faster, so it must be safe to repeat."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """A version with what its verdict rests on."""

    record: VersionRecord
    report: VerdictReport
    """Becomes ``verdict.json``."""
    html: str
    """Becomes ``report.html``."""


def export(
    store: ObjectStore,
    layout: Layout,
    *,
    checkpoint_prefix: str,
    version: str,
    tokenizer_prefix: str,
    plan: TrainPlan,
    work_dir: Path,
) -> str:
    """Turn a training checkpoint into the published model ``version``; returns its prefix.

    The manifest, without which the model does not exist, is written when the uploaded files have
    been read back and compute the same logits as the checkpoint. Safe to retry: an existing export
    is verified and returned.

    Args:
        store: Holds the checkpoint, the tokenizer and the export.
        layout: Of the lineage.
        checkpoint_prefix: ``updates/<id>/checkpoints/step-<n>``.
        version: Name of the candidate.
        tokenizer_prefix: The lineage's tokenizer.
        plan: What the checkpoint was trained by: architecture and framing.
        work_dir: For local copies.

    Raises:
        CorruptError: The checkpoint, or an earlier export, is damaged.
        AlreadyExistsError: The version was exported from another checkpoint.
        ValueError: The checkpoint is not the end of its schedule.
        RuntimeError: The export computes other logits than the checkpoint; the message names the
            largest difference.
    """
    _refuse_transient(checkpoint_prefix, plan)
    prefix = layout.model(version)
    if is_published(store, prefix):
        manifest = read_model_manifest(store, prefix)
        if manifest.origin != checkpoint_prefix:
            raise AlreadyExistsError(
                f"{prefix} was exported from {manifest.origin}, not from {checkpoint_prefix}: "
                "a version is published once, so run a new update"
            )
        fetch_model(store, prefix, work_dir / "published" / version)
        return prefix
    model = load_trained(store, checkpoint_prefix, plan, work_dir)
    export_model(
        store,
        layout,
        model,
        version=version,
        origin=checkpoint_prefix,
        tokenizer_prefix=tokenizer_prefix,
        work_dir=work_dir,
    )
    return prefix


def replay_extender(
    store: ObjectStore, layout: Layout, *, budget_tokens: int, seq_len: int
) -> ExtendReplay:
    """How publishing fills the lineage's replay buffer of at most ``budget_tokens``."""

    def extend(head: Head, snapshots: tuple[str, ...]) -> str:
        previous = read_replay(store, layout, head.replay) if head.replay else None
        learned = [
            (snapshot, piece.domain, piece.train_samples)
            for snapshot in snapshots
            for piece in read_snapshot(store, layout, snapshot).domains
        ]
        manifest = next_replay(
            previous,
            learned,
            budget_tokens=budget_tokens,
            seq_len=seq_len,
            lineage=layout.lineage,
        )
        publish_replay(store, layout, manifest)
        return manifest.id

    return extend


def commit_verdict(
    store: ObjectStore,
    layout: Layout,
    lease: Lease | None,
    report: VerdictReport,
    record: VersionRecord,
    *,
    html: str,
    extend_replay: ExtendReplay,
    by: str,
    always_ask: bool = False,
    failed: Evidence | None = None,
) -> Head:
    """Write the evidence of an update and commit its verdict; returns the head that holds it.

    Commits on top of a refresh that moved the head meanwhile. Safe to run again after a crash at
    any point: a verdict that is on the head already is left as it is.

    Args:
        store: Where everything of the lineage lies.
        layout: Of the lineage.
        lease: Held by the update, whose token fences the commit; None for a version that waits and
            is judged again because a person decides over it.
        report: Becomes ``verdict.json``, or ``verdict-<head>.json`` when judged again.
        record: The candidate with its verdict; decision and head numbers are set here.
        html: Becomes ``report.html``, likewise.
        extend_replay: Called for a PASS that publishes.
        by: Who: user@host, or the flow run.
        always_ask: A PASS waits for a person too.
        failed: What ``record`` repairs; its failure is committed with it.

    Raises:
        LeaseLostError: Another process took over.
        HeadMovedError: Champion or snapshots moved; the candidate was judged against the past.
        ValueError: The report is about another version, or the lineage has no head.
    """
    if (report.candidate, report.verdict) != (record.version, record.verdict):
        raise ValueError(
            f"the report says {report.verdict} of {report.candidate}, the record {record.verdict} "
            f"of {record.version}: expected the same"
        )
    record = replace(record, reason=record.reason or report.reason)
    if lease is not None:
        lease.check()
    for evidence in (failed, Evidence(record=record, report=report, html=html)):
        if evidence is not None:
            _write_all_evidence(store, layout, evidence)

    def change(head: Head | None) -> Head:
        head = _existing(head, layout)
        publishes = record.verdict == "PASS" and not always_ask
        is_new = publishes and not _is_decided(head, record.update)
        replay = extend_replay(head, record.snapshots) if is_new else None
        others = () if failed is None else (with_takedowns(store, layout, head, failed.record),)
        return with_verdict(
            head,
            with_takedowns(store, layout, head, record, others),
            replay=replay,
            by=by,
            reason=report.reason,
            lease_token=lease.token if lease is not None else None,
            always_ask=always_ask,
            failed=others[0] if others else None,
        )

    head = commit_change(store, layout, change)
    logger.info("%s of %s: %s, %s", record.version, layout.lineage, report.verdict, report.reason)
    return head


def _refuse_transient(checkpoint_prefix: str, plan: TrainPlan) -> None:
    """Nothing is judged while its rate is re-warmed: every old loss is high there for a while.

    A branch has a plan of its own, whose last step is its cooled end.
    """
    step = checkpoint_prefix.rpartition("/step-")[2]
    if step != str(plan.num_steps):
        raise ValueError(
            f"{checkpoint_prefix} was expected to be the end of its schedule, step "
            f"{plan.num_steps}, found step {step}, inside it: train to the end, or cool down from "
            f"there with 'perennial update --branch-from {plan.update}/step-{step}'"
        )


def _write_all_evidence(store: ObjectStore, layout: Layout, evidence: Evidence) -> None:
    record = evidence.record
    where = (layout, record.update, record.judged_on)
    report = readable_json(evidence.report)
    _write_evidence(store, layout, record, verdict_key(*where), report)
    _write_evidence(store, layout, record, report_key(*where), evidence.html.encode())


def _write_evidence(
    store: ObjectStore, layout: Layout, record: VersionRecord, key: str, body: bytes
) -> None:
    """Write once; replace only what no decision rests on: a crashed or an awaited judgement."""
    try:
        store.put_if_absent(key, body)
    except AlreadyExistsError:
        if not _is_decided(_existing(read_head(store, layout), layout), record.update):
            store.put(key, body)


def _is_decided(head: Head, update: str) -> bool:
    return any(r.update == update and r.decision != "awaiting" for r in head.versions)


def _existing(head: Head | None, layout: Layout) -> Head:
    if head is None:
        raise ValueError(
            f"{layout.lineage} has no head yet: refresh it first, or check the lineage's name"
        )
    return head
