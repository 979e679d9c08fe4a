"""Brings checkpoints into the store that an earlier life of the run left on this machine only.

A worker that dies while the store is away leaves its newest checkpoint on its own disk. When rank 0
starts there again, what the store missed is committed first, and everything that follows is as if
it had been there all the time: every rank, on any machine, goes on from the store.
"""

import logging
import shutil
from pathlib import Path

from storage.errors import CorruptError, NotFoundError
from storage.layout import Layout
from storage.manifest import check_digest, digest_bytes, unseal
from storage.objects import ObjectStore
from training.checkpoint.index import (
    FORMAT,
    CheckpointConfig,
    Progress,
    check_same_plan,
    committed_steps,
    local_steps,
    step_prefix,
)
from training.checkpoint.local import UnstoredRows, read_local
from training.checkpoint.pieces import check_local_file
from training.checkpoint.run_life import Life
from training.checkpoint.state import commit
from training.config import TrainPlan
from training.errors import PlanMismatchError
from training.guard.skips import Skips
from training.metrics import MetricJournal

logger = logging.getLogger(__name__)


def adopt_local(
    store: ObjectStore,
    plan: TrainPlan,
    work_dir: Path,
    *,
    life: Life,
    skips: Skips,
    config: CheckpointConfig,
) -> None:
    """Commit what lies in ``work_dir`` and is newer than what the store has, the oldest first.

    Only what is whole, of this plan and of the branch that the skips say: anything else is named in
    the log and removed. The rows of the journal go first. Rank 0 calls this, before anyone looks
    for the checkpoint to go on from. Safe to retry.

    Raises:
        StaleLifeError: A newer life than ``life`` has begun.
    """
    newest = max(committed_steps(store, plan.checkpoint_prefix), default=-1)
    for step, folder in local_steps(work_dir / plan.checkpoint_prefix):
        if step <= newest:
            continue
        try:
            rows = _checked(folder, plan, step, skips)
        except (CorruptError, NotFoundError, PlanMismatchError) as error:
            logger.warning("a checkpoint of this machine cannot be used: %s", error)
            shutil.rmtree(folder, ignore_errors=True)
            continue
        journal = MetricJournal(store, Layout(plan.lineage).metrics(plan.update))
        for row in rows.rows:
            journal.append(row)
        journal.flush()
        commit(
            store,
            step_prefix(plan.checkpoint_prefix, step),
            folder,
            life=life,
            is_permanent=config.is_permanent(step),
            bytes_per_second=config.upload_bytes_per_second,
        )
        logger.info("the store had missed step %d, which was on this machine", step)


def _checked(folder: Path, plan: TrainPlan, step: int, skips: Skips) -> UnstoredRows:
    """The rows of a whole local checkpoint that the run can go on from.

    Raises:
        NotFoundError: It was not finished.
        CorruptError: It is altered, or not of the present branch.
        PlanMismatchError: It is of another plan.
    """
    manifest = read_local(folder)
    if manifest.format != FORMAT or manifest.step != step:
        raise CorruptError(
            f"{folder} must be of step {step} and format {FORMAT}, found {manifest.step} and "
            f"{manifest.format}"
        )
    body = _read(folder / manifest.progress.name)
    check_digest(
        f"{folder}/{manifest.progress.name}",
        manifest.progress,
        digest_bytes(body, manifest.progress.name),
    )
    progress = unseal(body, str(folder / manifest.progress.name), Progress)
    check_same_plan(progress, plan, str(folder))
    if progress.skips != skips.numbers_before(step):
        raise CorruptError(f"{folder} belongs to a branch that the run went back from")
    rows = UnstoredRows.of(folder)
    for file in (manifest.weights, manifest.moments):
        check_local_file(folder, file)
    return rows


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} is missing") from error
