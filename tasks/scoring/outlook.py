"""What the verdict on an update will be able to see, told before anything is trained."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from storage.head import Head
from storage.layout import Layout
from storage.objects import ObjectStore
from storage.replay import read_replay
from storage.snapshots import read_snapshot_manifest
from storage.suite import SuiteManifest, read_suite
from tasks.judge.verdict import CheckConfig
from tasks.scoring.check import is_unguarded
from tasks.scoring.guards import MAX_GUARDS
from tasks.scoring.panel import Guard, Panel, panel_of
from tasks.update_plan import UpdatePlan


def with_outlook(
    store: ObjectStore,
    layout: Layout,
    head: Head,
    plan: UpdatePlan,
    config: CheckConfig,
    *,
    work_dir: Path,
    keep: bool,
) -> UpdatePlan:
    """The plan with what will be judged, and what nobody will guard. Safe to retry.

    Args:
        store: Holds snapshots and scores.
        layout: Of the lineage.
        head: On which the update was planned.
        plan: Of an update that has not begun.
        config: Of the lineage.
        work_dir: For local copies of shards.
        keep: Put on record how the slices are cut into units.

    Raises:
        CorruptError: A shard or a record is damaged.
    """
    if head.suite is None:
        return plan
    suite = read_suite(store, layout, head.suite)
    panel = panel_of(
        store,
        layout,
        head=head,
        suite=suite,
        new_snapshots=plan.new_snapshots,
        config=config,
        work_dir=work_dir,
        keep=keep,
    )
    guards = panel.guards if plan.champion else ()
    return replace(
        plan,
        gain=panel.new,
        guards=guards,
        unguarded=tuple(_unguarded(store, layout, head, plan, suite, panel)),
    )


def _unguarded(
    store: ObjectStore,
    layout: Layout,
    head: Head,
    plan: UpdatePlan,
    suite: SuiteManifest,
    panel: Panel,
) -> list[str]:
    """Sentences on what can be lost, or not be learned, without anybody seeing it."""
    told: list[str] = []
    if is_unguarded(head):
        told.append(
            "what the imported base model knew: nothing is held out that is like it; name such "
            "text in base.reference when importing"
        )
    if panel.new is None:
        told.append(
            "whether anything is learned: nothing new is held out, so that no gain can be shown; "
            "more documents, or clusters smaller than holdout.max_tokens, would help"
        )
    guarded = {item.domain for item in suite.slices if item.documents}
    told += [
        f"{domain}: nothing of it is held out, so that nobody sees what becomes of it; at least "
        "two clusters smaller than holdout.max_tokens are needed"
        for domain in sorted(_trained_on(store, layout, head, plan.snapshots) - guarded)
    ]
    if plan.champion:
        told += [_informs(guard) for guard in panel.guards if not guard.is_guarded]
        told += [
            _is_blunt(guard) for guard in panel.guards if guard.is_guarded and not guard.is_sharp
        ]
    return told


def _trained_on(
    store: ObjectStore, layout: Layout, head: Head, snapshots: Sequence[str]
) -> set[str]:
    """Domains of the new data and of the replay buffer."""
    domains = {
        piece.domain
        for snapshot in snapshots
        for piece in read_snapshot_manifest(store, layout, snapshot).domains
    }
    strata = read_replay(store, layout, head.replay).strata if head.replay else ()
    return domains | {stratum.domain for stratum in strata}


def _informs(guard: Guard) -> str:
    return (
        f"{guard.label}: shown, and no verdict depends on it, for {MAX_GUARDS} other domains with "
        "more held-out text guard the gate; give small domains one name to guard them together"
    )


def _is_blunt(guard: Guard) -> str:
    effect = (
        "no loss at all"
        if guard.detectable is None
        else (f"losses only from {guard.detectable:.3f} nats per token beyond what is allowed")
    )
    remedy = (
        "raise check.judged_tokens"
        if guard.clusters < guard.held_out_clusters
        else "more and smaller clusters would help (holdout.min_clusters, holdout.fraction)"
    )
    return (
        f"{guard.label}: its {guard.clusters} clusters show {effect}, and {guard.margin:g} is "
        f"allowed, so that even an unchanged model may not pass; {remedy}"
    )
