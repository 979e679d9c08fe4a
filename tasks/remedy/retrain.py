"""A failed update once more from its trunk, more gently: an update of its own, within a budget."""

from dataclasses import replace

from storage.head import Head
from storage.layout import Layout
from storage.objects import ObjectStore
from storage.snapshots import read_snapshot
from tasks.judge.verdict import Remedy
from tasks.mix import ReplayConfig
from tasks.plan import PlanRequest, judged_as, plan_of
from tasks.remedy.config import RemedyConfig
from tasks.update_plan import BudgetConfig, UpdatePlan, is_saved, load_plan
from training.metrics import read_metrics
from training.speed import speed_of

_MAX_REPLAY_SHARE = 0.9


def retraining_plan(
    store: ObjectStore,
    layout: Layout,
    head: Head,
    plan: UpdatePlan,
    remedy: Remedy,
    config: RemedyConfig,
    *,
    number: int,
    max_tokens: int,
) -> UpdatePlan | str:
    """The plan of a retraining, or in one sentence why there is none. Writes nothing.

    It trains on the snapshots of ``plan``, from the same trunk. The same for the same arguments.

    Args:
        store: Where the lineage lies.
        layout: Of the lineage.
        head: The newest; nothing has moved since the update was planned.
        plan: The failed update.
        remedy: ``more_replay`` or ``lower_peak``.
        config: By which factors.
        number: Of the version that it will make.
        max_tokens: It is cut to these; not begun when that leaves less than half of it.
    """
    request = _gentler(plan, remedy, config)
    pending = [read_snapshot(store, layout, snapshot) for snapshot in plan.snapshots]
    if not pending:
        return "The update has no new data of its own to train on again."
    if remedy == "more_replay" and head.replay is None:
        return "There is nothing to replay yet."
    made = plan_of(store, layout, head, request, pending, plan.new_tokens)
    if made.total_tokens > 2 * max_tokens:
        return (
            f"It would take {made.total_tokens:,} tokens, and {max_tokens:,} are left for "
            "retraining."
        )
    if made.total_tokens > max_tokens:
        shorter = replace(request.budget, tokens=max_tokens - max_tokens % _step_tokens(plan))
        made = plan_of(
            store, layout, head, replace(request, budget=shorter), pending, plan.new_tokens
        )
    if (judged := judged_as(head, made.id)) is not None:
        return f"It was trained and judged before, as {judged.version}."
    if is_saved(store, layout, made.id):
        return load_plan(store, layout, made.id)
    return replace(
        made,
        version=f"{number}-{made.id[:8]}",
        remedy=_in_words(request, remedy),
        remedy_of=plan.version,
    )


def expected_seconds(store: ObjectStore, layout: Layout, failed: UpdatePlan, tokens: int) -> float:
    """How long ``tokens`` take at the speed of the failed update; 0 when that is not known."""
    rows = read_metrics(store, layout.metrics(failed.train.update))
    speed = speed_of(rows, failed.train.global_batch_tokens)
    return tokens / speed if speed else 0.0


def _gentler(plan: UpdatePlan, remedy: Remedy, config: RemedyConfig) -> PlanRequest:
    recipe, replay = plan.recipe, replay_of(plan)
    if remedy == "more_replay":
        replay = gentler_replay(replay, config.replay_factor)
    else:
        peak = config.peak_factor * recipe.schedule.eta_max
        recipe = replace(recipe, schedule=replace(recipe.schedule, eta_max=peak))
    return PlanRequest(
        recipe=recipe,
        budget=plan.budget or BudgetConfig(tokens=plan.total_tokens),
        replay=replay,
        # The trunk says what is trained.
        new_model=None,
    )


def replay_of(plan: UpdatePlan) -> ReplayConfig:
    """What a plan was asked to replay."""
    return ReplayConfig(
        share=plan.replay_share_requested, reference_share=plan.reference_share_requested
    )


def gentler_replay(asked: ReplayConfig, factor: float) -> ReplayConfig:
    """A replay share of so many times as much, and beside the reference so many times less.

    At most 0.9 of the tokens are replay, reference included.
    """
    reference = 1 - (1 - asked.reference_share) / factor if asked.reference_share else 0.0
    reference = min(_MAX_REPLAY_SHARE, reference)
    most = 1 - (1 - _MAX_REPLAY_SHARE) / (1 - reference)
    share = min(factor * (asked.share or ReplayConfig().share), max(0.0, most))
    return ReplayConfig(share=share, reference_share=reference)


def _in_words(request: PlanRequest, remedy: Remedy) -> str:
    if remedy == "more_replay":
        reference = request.replay.reference_share
        beside = f" beside a reference share of {reference:g}" if reference else ""
        return f"more replay, share {request.replay.share:g}{beside}"
    return f"lower peak, eta_max {request.recipe.schedule.eta_max:g}"


def settings_of_retraining(made: UpdatePlan, remedy: Remedy) -> dict[str, float]:
    """What was set, as an attempt records it."""
    if remedy == "more_replay":
        asked = replay_of(made)
        shares = {"reference_share": asked.reference_share} if asked.reference_share else {}
        return {"share": asked.share, **shares}
    return {"eta_max": made.recipe.schedule.eta_max}


def _step_tokens(plan: UpdatePlan) -> int:
    return plan.train.global_batch_tokens
