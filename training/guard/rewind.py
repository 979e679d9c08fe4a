"""How far a run goes back from a loss spike, and which checkpoints it keeps for that."""

from collections.abc import Iterable

from training.config import TrainPlan
from training.guard.spike import JUDGED_STEPS

_MOST_STEPS = 100
_LEAST_STEPS = 10


def steps_back(plan: TrainPlan) -> int:
    """Batches before a spike that are passed over with it; twice as many behind it are.

    PaLM went back some 100 steps and passed over 200 to 500 batches (Chowdhery et al. 2022,
    arXiv:2204.02311, section 5.1). For an update of less than 5,000 steps it is 2% of them, and 10
    at least.
    """
    return max(_LEAST_STEPS, min(_MOST_STEPS, plan.num_steps // 50))


def kept_for_rewind(steps: Iterable[int], plan: TrainPlan) -> set[int]:
    """Which of the checkpoints at ``steps``, the newest of them included, a rewind may go back to.

    The newest that is old enough, and the oldest that is not yet, because it is the next to be. A
    run at its end does not go back any more.
    """
    taken = sorted(steps)
    if not taken or taken[-1] == plan.num_steps:
        return set()
    oldest_needed = taken[-1] - steps_back(plan) - JUDGED_STEPS
    old = [step for step in taken if step <= oldest_needed]
    young = [step for step in taken if step > oldest_needed]
    return {*old[-1:], *young[:1]}
