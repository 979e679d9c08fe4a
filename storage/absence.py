"""A store that is away or full: told from other failures, and waited for."""

import errno
import logging
import time
from collections.abc import Callable
from typing import TypeVar

from storage.errors import StorageError, StoreFullError, UnavailableError

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a full disk answers, a quota or a limit."""
RETRY_SECONDS = 10.0
"""Between two tries to reach a store that is away, or to write to a disk that is full."""


def is_store_away(error: StorageError | OSError) -> bool:
    """Whether a store failed in a way that a later try may not: not reached, or full."""
    is_full = isinstance(error, StoreFullError) or getattr(error, "errno", None) in FULL
    return is_full or isinstance(error, UnavailableError)


def when_reached(ask: Callable[[], _T], purpose: str, wait_seconds: float) -> _T:
    """What ``ask`` returns; a store that is away is waited for, and asked again.

    Args:
        ask: Safe to retry.
        purpose: What stands still meanwhile, for the log.
        wait_seconds: At most, beyond the store's own retries.

    Raises:
        UnavailableError: It was away for longer.
        Exception: What else ``ask`` raises, at once.
    """
    give_up_at = time.monotonic() + wait_seconds
    was_away = False
    while True:
        try:
            answer = ask()
        except UnavailableError as error:
            if time.monotonic() + RETRY_SECONDS > give_up_at:
                raise
            if not was_away:
                logger.warning(
                    "%s waits up to %g s for the store: %s", purpose, wait_seconds, error
                )
            was_away = True
            time.sleep(RETRY_SECONDS)
        else:
            if was_away:
                logger.info("the store is back: %s goes on", purpose)
            return answer
