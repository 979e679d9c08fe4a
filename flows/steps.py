"""How a plain function becomes a Prefect task."""

import errno
import logging
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

RETRY_DELAYS_SECONDS: list[float] = [2, 10, 30]

_MAY_PASS = {
    errno.EAGAIN,
    errno.EBUSY,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.EINTR,
    errno.EIO,
    errno.ENETDOWN,
    errno.ENETRESET,
    errno.ENETUNREACH,
    errno.ESTALE,
}
"""Beside what Python calls a ConnectionError or a TimeoutError: an unreachable host, a share."""


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


def _may_pass_on_retry(failed: Any, _run: Any, state: Any) -> bool:
    error = state.result(raise_on_failure=False)
    # A full disk or a missing permission is the user's to mend: a retry only delays the message.
    is_passing = isinstance(error, OSError) and (
        isinstance(error, ConnectionError | TimeoutError) or error.errno in _MAY_PASS
    )
    if is_passing:
        times = len(RETRY_DELAYS_SECONDS) + 1
        logger.warning(f"step {failed.name}: {error}; a step is tried {times} times in all")
    return is_passing
