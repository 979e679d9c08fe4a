"""Learning-rate schedules: pure functions of tokens seen.

A schedule has no state to restore: an update builds its own from its length, so a re-warm cannot be
lost by loading an old step counter. Progress includes the step about to be taken, so that no step
is wasted at rate 0.
"""

import math

from training.config import Schedule, ScheduleConfig


def resolve(config: ScheduleConfig, *, total_tokens: int, trunk_tokens: int = 0) -> Schedule:
    """The schedule of one update in absolute tokens.

    Args:
        config: Lengths as shares of the update, rates as shares of the peak.
        total_tokens: Tokens of the update, the final decay included.
        trunk_tokens: ``infinite``: tokens that the trunk has seen under this schedule. A trunk is
            never stored before its warm-up and cooldown are over, so with any such tokens both are
            past.

    Raises:
        ValueError: The phases do not fit into the update, or their rates contradict each other.
    """
    if total_tokens < 1:
        raise ValueError(f"an update must have at least 1 token to schedule, got {total_tokens}")
    is_infinite = config.kind == "infinite"
    begins_trunk = not (is_infinite and trunk_tokens > 0)
    warmup = round(total_tokens * config.warmup_fraction) if begins_trunk else 0
    cooldown = round(total_tokens * config.cooldown_fraction) if is_infinite and begins_trunk else 0
    decays_late = config.kind in ("wsd", "infinite")
    decay = round(total_tokens * config.decay_fraction) if decays_late else 0
    if warmup + cooldown + decay > total_tokens:
        raise ValueError(
            f"the {config.kind} schedule's warm-up ({warmup} tokens), cooldown ({cooldown}) and "
            f"decay ({decay}) must fit into the update's {total_tokens} tokens; lower "
            "warmup_fraction, cooldown_fraction or decay_fraction"
        )
    plateau = config.eta_max * (config.eta_const_ratio if is_infinite else 1.0)
    eta_min = config.eta_max * config.eta_min_ratio
    if is_infinite and not 0 < eta_min <= plateau:
        raise ValueError(
            "the infinite schedule decays exponentially from eta_const to eta_min, so "
            "eta_min_ratio must be above 0 and at most eta_const_ratio "
            f"{config.eta_const_ratio:g}, got {config.eta_min_ratio:g}"
        )
    never_decays = config.kind == "constant" or (decays_late and decay == 0)
    return Schedule(
        kind=config.kind,
        eta_max=config.eta_max,
        eta_min=plateau if never_decays else eta_min,
        eta_const=plateau,
        warmup_tokens=warmup,
        cooldown_tokens=cooldown,
        decay_tokens=total_tokens - warmup if config.kind == "cosine" else decay,
        total_tokens=total_tokens,
        trunk_tokens=trunk_tokens if is_infinite else 0,
    )


def cool_down(
    schedule: Schedule, *, branch_tokens: int, decay_tokens: int, eta_min: float
) -> Schedule:
    """The decay alone, from the rate that holds after ``branch_tokens`` down to ``eta_min``.

    In the form of the schedule's own decay: 1 - sqrt for ``wsd``, exponential for ``infinite``,
    half a cosine otherwise. Progress goes on being counted from the update's begin.

    Args:
        schedule: Of the update that is branched.
        branch_tokens: Tokens of that update at the branch point.
        decay_tokens: Length of the cool-down.
        eta_min: Rate at its end.

    Raises:
        ValueError: The rate is at ``eta_min`` or below it already, or the decay has no length.
    """
    if decay_tokens < 1:
        raise ValueError(f"a cool-down must have at least 1 token, got {decay_tokens}")
    rate = lr_at(branch_tokens, schedule)
    if rate <= eta_min:
        raise ValueError(
            f"the learning rate after {branch_tokens:,} tokens is {rate:g} and a cool-down to "
            f"{eta_min:g} must begin above that; branch from an earlier checkpoint"
        )
    return Schedule(
        kind="cosine" if schedule.kind == "constant" else schedule.kind,
        eta_max=rate,
        eta_min=eta_min,
        eta_const=rate,
        warmup_tokens=0,
        cooldown_tokens=0,
        decay_tokens=decay_tokens,
        total_tokens=branch_tokens + decay_tokens,
        trunk_tokens=schedule.trunk_tokens,
    )


def lr_at(tokens_seen: int, schedule: Schedule) -> float:
    """Learning rate of the step after which ``tokens_seen`` tokens of the update have been seen.

    Linear warm-up, then by kind: ``cosine`` decays over all the rest (Ibrahim et al. 2024,
    arXiv:2403.08763); ``constant`` stays; ``wsd`` stays, then decays as 1 - sqrt (Haegele et al.
    2024, arXiv:2405.18392); ``infinite`` cools down to a constant rate once in its trunk's life and
    anneals each release exponentially on a branch (Ibrahim et al. 2024). Beyond ``total_tokens``
    the last rate is kept.

    Args:
        tokens_seen: Tokens of this update over all workers, including the step about to be taken.
        schedule: Lengths in tokens, rates in units of the optimizer's ``lr``.
    """
    if tokens_seen >= schedule.total_tokens:
        return schedule.eta_min
    into_decay = tokens_seen - (schedule.total_tokens - schedule.decay_tokens)
    if into_decay > 0:
        return _decayed(into_decay / schedule.decay_tokens, schedule)
    position = schedule.trunk_tokens + tokens_seen
    if position < schedule.warmup_tokens:
        return schedule.eta_max * position / schedule.warmup_tokens
    into_cooldown = position - schedule.warmup_tokens
    if into_cooldown < schedule.cooldown_tokens:
        progress = into_cooldown / schedule.cooldown_tokens
        return _cosine(progress, schedule.eta_max, schedule.eta_const)
    return schedule.eta_const


def _decayed(progress: float, schedule: Schedule) -> float:
    """Rate at ``progress`` (0 to 1) of the final decay."""
    if schedule.kind == "cosine":
        return _cosine(progress, schedule.eta_max, schedule.eta_min)
    if schedule.kind == "wsd":
        drop = schedule.eta_max - schedule.eta_min
        return schedule.eta_min + drop * (1 - math.sqrt(progress))
    return schedule.eta_const * (schedule.eta_min / schedule.eta_const) ** progress


def _cosine(progress: float, start: float, end: float) -> float:
    """Half a cosine wave from ``start`` to ``end``."""
    return end + (start - end) / 2 * (1 + math.cos(math.pi * progress))
