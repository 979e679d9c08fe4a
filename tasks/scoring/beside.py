"""The numbers beside a verdict that scoring alone does not give: forgetting, drift, the gap."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from storage.head import Head, VersionRecord
from storage.layout import Layout
from storage.models import fetch_model
from storage.objects import ObjectStore
from storage.suite import SuiteManifest
from tasks.evaluations.copy_probe import copy_probe
from tasks.judge.numbers import Numbers
from tasks.scoring.compute import Desk
from tasks.scoring.forgetting import forgetting_of
from tasks.scoring.scores import forgetting_matrix
from tasks.scoring.stability import stability_gaps
from training.config import TrainPlan
from training.drift import drift_between

logger = logging.getLogger(__name__)


def numbers_beside(
    store: ObjectStore,
    layout: Layout,
    head: Head,
    suite: SuiteManifest,
    record: VersionRecord,
    *,
    scored: Numbers,
    plan: TrainPlan,
    metrics: Sequence[Mapping[str, Any]],
    work_dir: Path,
) -> Numbers:
    """``scored`` with what the record, the weights and the training add. Safe to retry.

    Args:
        store: Where everything of the lineage lies.
        layout: Of the lineage.
        head: The newest head, which need not hold ``record``.
        suite: What was scored.
        record: The candidate; its parent is the champion.
        scored: From ``tasks.scoring.check``.
        plan: What the candidate was trained by.
        metrics: Of its training, one mapping a step.
        work_dir: For local copies of models.

    Raises:
        CorruptError: A model or a record is damaged.
        NotFoundError: A model does not exist.
    """
    others = tuple(known for known in head.versions if known.version != record.version)
    judged = replace(head, versions=(*others, record))
    matrix = forgetting_matrix(store, layout, judged, suite)
    drift = None
    if record.parent is not None:
        new, old = (
            fetch_model(store, layout.model(version), work_dir / "models" / version)
            for version in (record.version, record.parent)
        )
        drift = drift_between(new, old)
    copies = copy_probe(
        Desk(store, layout, work_dir),
        suite,
        record.update,
        candidate=record.version,
        champion=record.parent,
    )
    if copies is not None and copies.warning:
        logger.warning(copies.warning)
    return replace(
        scored,
        forgetting=forgetting_of(
            matrix,
            judged.versions,
            record.version,
            # A model that knows nothing gives every token of the vocabulary the same probability.
            untrained=math.log(plan.model.vocab_size),
        ),
        stability=stability_gaps(metrics, plan.mixture),
        drift=drift,
        copies=copies,
    )
