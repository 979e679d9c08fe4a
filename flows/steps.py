"""How a plain function becomes a Prefect task."""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE

from storage.errors import StorageError

P = ParamSpec("P")
R = TypeVar("R")

RETRY_DELAYS_SECONDS: list[float] = [2, 10, 30]


def step(function: Callable[P, R]) -> Task[P, R]:
    """``function`` as a task that is retried with back-off when the ground shook.

    All steps are safe to retry: they find their own finished results. Errors that a retry cannot
    mend (bad
    configuration, refused data, a lost lease) are not retried.
    """
    decorate = task(
        name=function.__name__.replace("_", "-"),
        retries=len(RETRY_DELAYS_SECONDS),
        retry_delay_seconds=RETRY_DELAYS_SECONDS,
        retry_condition_fn=_may_pass_on_retry,
        # Steps keep their results in the store; Prefect must neither hash nor keep their arguments.
        persist_result=False,
        cache_policy=NO_CACHE,
    )
    return decorate(function)


def _may_pass_on_retry(_task: Any, _run: Any, state: Any) -> bool:
    error = state.result(raise_on_failure=False)
    # OSError covers full disks, dropped connections and time-outs; our own errors know what they
    # mean.
    return isinstance(error, OSError) and not isinstance(error, StorageError)
