"""What workers, and those that watch them, end with: whether a training tries again after it.

Needs neither torch nor Ray.
"""

import logging
from collections.abc import Callable, Mapping

from storage.errors import StorageError
from training.errors import TrainingError

logger = logging.getLogger(__name__)

Failures = Mapping[int, BaseException]
"""What ranks ended with; ``CONTROLLER`` stands for the process of Ray that watches them, ``DRIVER``
for the one that speaks to Ray for us."""
CONTROLLER = -1
DRIVER = -2
_NAMES = {CONTROLLER: "Ray's controller", DRIVER: "Ray's driver"}

_FINAL_ERRORS = (TrainingError, StorageError, ValueError)
"""About the plan, the data or the stored state, which the next try would find as they are."""


class WorkerLostError(Exception):
    """A process is gone; says how, in a line."""


def repeat(attempt: Callable[[], Failures | None], update: str, max_failures: int) -> None:
    """Repeat ``attempt``, which returns what was lost, until nothing was.

    Raises:
        TrainingError: There were more than ``max_failures`` failures.
        Exception: The very error of a rank, when the next attempt would meet it again.
    """
    failures = 0
    while (errors := attempt()) is not None:
        for error in errors.values():
            if isinstance(error, _FINAL_ERRORS):
                raise error
        failures += 1
        if failures > max_failures:
            raise TrainingError(
                f"training of {update} must end with at most {max_failures} failures of its "
                f"workers, and failed again: {_reason(errors)}; run it again, it goes on from the "
                "newest checkpoint"
            )
        logger.warning(
            "workers of %s failed, %d of at most %d times: %s; they start again from the newest "
            "checkpoint",
            *(update, failures, max_failures, _reason(errors)),
        )


def portable(errors: Failures, missing: str = "") -> Failures:
    """``errors`` as another process can read them that has never heard of Ray.

    Args:
        errors: What ranks ended with.
        missing: Whom the others waited for; told with the failures of their exchange.
    """
    return {rank: _portable(error, missing) for rank, error in errors.items()}


def _portable(error: BaseException, missing: str) -> BaseException:
    if isinstance(error, _FINAL_ERRORS):
        return error
    # Of a dead process Ray says first that it did not answer; why is inside.
    error = getattr(error, "health_check_failure", error)
    told = _first_line(error)
    if isinstance(error, RuntimeError):
        return RuntimeError(f"{told}; all waited for {missing}" if missing else told)
    return WorkerLostError(f"{type(error).__name__}: {told}")


def _reason(errors: Failures) -> str:
    """One rank's failure, in one line."""
    # When a rank dies, torch's exchange fails on the others with a RuntimeError: look past those.
    by_weight = sorted(
        errors.items(), key=lambda item: (isinstance(item[1], RuntimeError), item[0])
    )
    if not by_weight:
        return "Ray gave no reason"
    rank, error = by_weight[0]
    who = _NAMES.get(rank, f"rank {rank}")
    kind = "" if isinstance(error, WorkerLostError) else f"{type(error).__name__}: "
    return f"{who} ended with {kind}{_first_line(error)}"


def _first_line(error: BaseException) -> str:
    """Ray appends whole logs and traces."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
