"""A plan in words, for the log, the report and who decides whether to start it."""

from tasks.scoring.guards import MAX_GUARDS
from tasks.scoring.panel import Guard
from tasks.update_plan import UpdatePlan
from training.config import ForeignConfig, Schedule, TakenOver, TrainPlan
from training.foreign.config import why_not_native
from training.release import describe_release


def describe(plan: UpdatePlan) -> list[str]:
    """The plan in lines for people, with every derived number's formula."""
    train = plan.train
    lines = [
        f"update {plan.id} of lineage {plan.lineage}: candidate {plan.version}, "
        f"against champion {plan.champion or '(none: first version)'}",
        f"new data: {', '.join(plan.new_snapshots)}, {plan.new_tokens:,} tokens; "
        f"replay {plan.replay or '(none)'} at {plan.replay_share:.2%} "
        f"(asked for {_asked(plan)})",
        f"length: {train.num_steps:,} steps x {train.global_batch_samples} samples x "
        f"{train.seq_len} tokens = {plan.total_tokens:,} tokens",
        describe_schedule(train.schedule),
    ]
    if isinstance(train.model, ForeignConfig):
        why = why_not_native(train.model)
        lines.append(f"model: {train.model.model_type}, computed by transformers: {why}")
    if train.release_steps:
        lines.append(describe_release(train.release, train.release_steps))
    if train.taken_over is not None:
        lines.append(_describe_origin(train, train.taken_over))
    for stream in train.mixture.streams:
        share = stream.parts / train.mixture.total_parts
        drawn = share * (train.num_steps - train.first_step) * train.global_batch_samples
        lines.append(
            f"  {'replay' if stream.is_replay else 'new':6} {stream.name}: {share:.2%}, "
            f"{drawn:,.0f} of {stream.samples:,} samples ({drawn / stream.samples:.2f} passes)"
        )
    return [*lines, *describe_outlook(plan)]


def _asked(plan: UpdatePlan) -> str:
    if not plan.reference_share_requested:
        return f"{plan.replay_share_requested:.2%}"
    return (
        f"{plan.reference_share_requested:.2%} reference, {plan.replay_share_requested:.2%} of the "
        "rest"
    )


def describe_outlook(plan: UpdatePlan) -> list[str]:
    """What the verdict will rest on, and what it will not see."""
    lines: list[str] = []
    if plan.gain is not None:
        lines.append(f"judged by a gain on {_sized(plan.gain)}")
    guarded = [guard for guard in plan.guards if guard.is_guarded]
    if guarded:
        tokens = sum(guard.tokens for guard in guarded)
        lines.append(
            f"guarded by old text, {len(guarded)} of at most {MAX_GUARDS} guards, {tokens:,} "
            f"tokens, each of which may lose {guarded[0].margin:g} nats per token"
        )
        lines += [f"  {_sized(guard)}" for guard in guarded]
    return [*lines, *(f"not guarded: {told}" for told in plan.unguarded)]


def _sized(guard: Guard) -> str:
    effect = (
        "shows nothing"
        if guard.detectable is None
        else f"shows {guard.detectable:.3f} nats per token beyond its margin of {guard.margin:g}"
    )
    return f"{guard.label}: {guard.clusters:,} clusters, {guard.tokens:,} tokens, {effect}"


def _describe_origin(train: TrainPlan, origin: TakenOver) -> str:
    """Where the training begins that goes on from another one's."""
    moments = "and moments " if train.optimizer.moments == "keep" else ", with fresh moments, "
    where = f"of step {origin.step:,} of update {origin.update}"
    left = f"steps {train.first_step + 1:,} to {train.num_steps:,} are trained"
    if origin.mode == "continue":
        return f"continues from the weights {moments}{where}: {left}"
    if origin.mode == "branch":
        return (
            f"a cool-down from the weights {moments}{where}: {left}; the next update continues "
            "from that checkpoint, not from the end of the cool-down"
        )
    return f"a new phase from the weights {moments}{where}"


def describe_schedule(schedule: Schedule) -> str:
    """The learning-rate plan in one line."""
    parts = [f"learning rate: {schedule.kind}"]
    if schedule.warmup_tokens and schedule.trunk_tokens < schedule.warmup_tokens:
        parts.append(f"warm up to {schedule.eta_max:g} over {schedule.warmup_tokens:,} tokens")
    if schedule.kind == "infinite":
        parts.append(f"constant {schedule.eta_const:g}")
    if schedule.kind in ("wsd", "infinite"):
        parts.append(f"anneal to {schedule.eta_min:g} over the last {schedule.decay_tokens:,}")
    if schedule.kind == "cosine":
        parts.append(f"cosine to {schedule.eta_min:g} at {schedule.total_tokens:,}")
    return ", ".join(parts)
