"""The steps of an update that bring in text: import, refresh, task items and the search for them.

As those that train (``flows.update_steps``), each can be retried and holds no state of its own.
"""

from dataclasses import replace
from pathlib import Path

from flows.ground import Ground, whoami
from flows.steps import step
from flows.update_steps import extend_replay
from storage.head import SnapshotRole, read_head
from storage.lease import Lease
from tasks.decontamination.current import bring_up_to_date
from tasks.evaluations.freeze import freeze_tasks as freeze_lineage_tasks
from tasks.import_base import import_base
from tasks.refresh import refresh as refresh_lineage
from tasks.refresh_progress import ShownProgress
from tasks.refresh_request import (
    ImportedTokenizer,
    RefreshConfig,
    RefreshRequest,
    RefreshResult,
    TrainedTokenizer,
)
from tasks.scoring.place import Place
from tasks.staff import Workers
from tasks.update_plan import UpdatePlan


@step
def import_base_model(ground: Ground, lease: Lease) -> None:
    """Version 1 of a lineage that continues an existing model: the model itself, untrained."""
    base = ground.lineage.base
    head = read_head(ground.store, ground.layout)
    if base.directory is None or (head is not None and head.champion is not None):
        return
    directory = Path(base.directory)
    if base.reference:
        _refresh(ground, lease, role="reference")
    # From the head: an earlier run may have minted the reference and died before the import.
    head = read_head(ground.store, ground.layout)
    references = tuple(
        record.id for record in (head.snapshots if head else ()) if record.role == "reference"
    )
    import_base(
        ground.store,
        ground.layout,
        directory,
        references=references,
        extend_replay=extend_replay(ground),
        by=whoami(),
        reason=f"imported from {directory.name}",
        work_dir=ground.work_dir,
        lease_token=lease.token,
    )


@step
def refresh(ground: Ground, lease: Lease) -> RefreshResult:
    """Read what is new in the sources and mint a pending snapshot, if there is enough."""
    return _refresh(ground, lease, role="new")


@step
def freeze_tasks(ground: Ground, lease: Lease) -> None:
    """Bring the suite's task items up to date; refuses what cannot be read before it trains."""
    freeze_lineage_tasks(
        ground.store,
        ground.layout,
        ground.lineage.tasks,
        ground.lineage.minted,
        by=whoami(),
        work_dir=ground.work_dir,
        lease_token=lease.token,
    )


@step
def search_text(ground: Ground, plan: UpdatePlan) -> None:
    """Look in the text of an update for the items of tasks that came after it."""
    head = read_head(ground.store, ground.layout)
    assert head is not None  # a plan is made from one
    bring_up_to_date(ground.store, ground.layout, head, plan.snapshots, work_dir=ground.work_dir)


def _refresh(ground: Ground, lease: Lease, *, role: SnapshotRole) -> RefreshResult:
    lineage = ground.lineage
    base, kept_out = lineage.base, lineage.decontaminate
    ground.work_dir.mkdir(parents=True, exist_ok=True)
    request = RefreshRequest(
        sources=lineage.sources if role == "new" else base.reference,
        tokenizer=(
            TrainedTokenizer(base.model.vocab_size)
            if base.model is not None
            else ImportedTokenizer(Path(base.directory or ""))
        ),
        seq_len=lineage.recipe.seq_len,
        curate=lineage.curate,
        near_duplicates=lineage.near_duplicates,
        kept_out=(*lineage.tasks, *kept_out.against) if kept_out else (),
        leak_share=kept_out.min_share if kept_out else 1.0,
        holdout=lineage.holdout,
        minimum=lineage.refresh if role == "new" else RefreshConfig(),
        role=role,
    )
    with ShownProgress() as progress:
        return refresh_lineage(
            ground.store,
            ground.layout,
            request,
            by=whoami(),
            work_dir=ground.work_dir,
            lease_token=lease.token,
            progress=progress,
            workers=_workers(ground),
        )


def _workers(ground: Ground) -> Workers:
    """Those that the lineage has for reading, or those that train."""
    lineage = ground.lineage
    num_workers = lineage.refresh.num_workers
    compute = (
        lineage.compute
        if num_workers is None
        else replace(lineage.compute, num_workers=num_workers)
    )
    place = Place(compute=replace(compute, use_gpu=False), ray_address=ground.settings.ray_cluster)
    return Workers(place.pool("refreshing") if place.has_more else None)
