"""Is the loss spiking? A pure function of the losses of the last steps.

A spike is a loss that jumps above what it slowly moves around, and stays there: bad data, or an
optimizer that lost its footing (Chowdhery et al. 2022, arXiv:2204.02311, section 5.1). No spike is
a loss that rises because the learning rate is re-warmed, which it does even on unchanged data
(Gupta et al. 2023, arXiv:2308.04014): see ``settling_steps``.
"""

import math
import statistics
from collections.abc import Sequence

from training.config import TrainPlan

WINDOW_STEPS = 64
"""Whose median and spread the newest losses are compared with."""
JUDGED_STEPS = 5
NEEDED_STEPS = 3
"""Of the judged ones, beyond the limit: one odd batch is no spike, and no reason to go back."""
LIMIT_DEVIATIONS = 6.0
LIMIT_SHARE = 0.1
"""A spike is also this share above the median: losses that hardly vary at all, and text that
changes its kind, move less."""
HISTORY_STEPS = WINDOW_STEPS + JUDGED_STEPS
"""What ``first_beyond`` looks at."""

_MIN_WINDOW_STEPS = 16
_DEVIATION_OF_MAD = 1.4826
"""Standard deviation of normal noise, as a multiple of its median absolute deviation."""


def first_beyond(losses: Sequence[float], *, floor: float = 0.0) -> int | None:
    """How many steps ago a spike began, 0 for the newest step; None when there is none.

    The limit is the median of the window before the judged steps plus the larger of
    ``LIMIT_DEVIATIONS`` robust standard deviations and ``LIMIT_SHARE`` of the median. With normal
    noise, and with Student's t of 3 degrees of freedom, that is no false alarm in 10^5 steps (the
    test says how that was found).

    Args:
        losses: Nats per token of consecutive steps, newest last; finite.
        floor: The limit is at least this, nats per token.
    """
    window = losses[-HISTORY_STEPS:-JUDGED_STEPS]
    if len(window) < _MIN_WINDOW_STEPS:
        return None
    level = statistics.median(window)
    spread = _DEVIATION_OF_MAD * statistics.median(abs(loss - level) for loss in window)
    limit = max(level + max(LIMIT_DEVIATIONS * spread, LIMIT_SHARE * level), floor)
    beyond = [age for age, loss in enumerate(reversed(losses[-JUDGED_STEPS:])) if loss > limit]
    return max(beyond) if len(beyond) >= NEEDED_STEPS else None


def settling_steps(plan: TrainPlan) -> int:
    """Steps at the start of an update in which the learning rate may raise the loss by itself.

    The warm-up, as long again for the weights to follow it, and one window to be measured against.
    """
    warmup_steps = math.ceil(plan.schedule.warmup_tokens / plan.global_batch_tokens)
    return 2 * warmup_steps + WINDOW_STEPS


def floor_at(step: int, plan: TrainPlan) -> float:
    """What a loss must exceed at ``step`` to count as a spike at all, nats per token.

    While the learning rate settles, only what is worse than knowing nothing, ln(vocabulary):
    re-warming does not undo all that a model knows, and permuted labels do.
    """
    return math.log(plan.model.vocab_size) if step <= settling_steps(plan) else 0.0
