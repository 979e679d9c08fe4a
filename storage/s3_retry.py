"""The one place that decides what is tried again on S3, and how long.

Whole verbs are tried again, because botocore's own retries know neither a body that is cut while it
is read nor a condition's 409.
"""

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from storage import s3_errors
from storage.s3_client import current_client, forget_client

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

# Of its own: who has seeded Python's generator shall draw the same from it, whatever S3 does.
_jitter = random.SystemRandom()

# An object that is damaged where it lies stays so: the way to it does not take a minute to mend.
_MAX_ALTERED = 4


@dataclass(frozen=True, slots=True)
class Retry:
    """Exponential back-off with full jitter inside a budget."""

    budget_seconds: float = 60.0
    """From the first failure to the start of the last attempt; a slow success costs nothing."""
    first_wait_seconds: float = 0.1
    """Upper bound of the first wait; doubles with every further one."""
    longest_wait_seconds: float = 5.0

    def run(self, attempt: Callable[[Any], _T], store: str) -> _T:
        """The result of ``attempt(client)``, tried again while its failures may pass.

        Credentials that are refused are read again once: they may have been exchanged while we ran.
        ``store`` names the store in the log.

        Raises:
            Exception: What the last attempt raised.
        """
        failures = 0
        deadline = float("inf")
        has_renewed = False
        while True:
            client = None
            try:
                client = current_client()
                return attempt(client)
            except s3_errors.failures() as error:
                if s3_errors.is_stale_credential(error) and not has_renewed:
                    has_renewed = True
                    forget_client(client)
                    continue
                failures += 1
                is_altered = isinstance(error, s3_errors.AlteredError)
                if not s3_errors.may_pass(error) or (is_altered and failures > _MAX_ALTERED):
                    raise
                deadline = min(deadline, time.monotonic() + self.budget_seconds)
                wait_seconds = self._wait_seconds(failures)
                if time.monotonic() + wait_seconds > deadline:
                    raise
                _log(store, error, failures, deadline)
                time.sleep(wait_seconds)

    def _wait_seconds(self, failures: int) -> float:
        doubled = self.first_wait_seconds * 2.0 ** min(failures - 1, 30)
        return _jitter.uniform(0, min(self.longest_wait_seconds, doubled))


def _log(store: str, error: Exception, failures: int, deadline: float) -> None:
    # The first hiccups are everyday life; a person wants to know of what lasts.
    level = logging.WARNING if failures == 4 else logging.DEBUG
    left_seconds = deadline - time.monotonic()
    logger.log(level, f"{store}: {s3_errors.cause_of(error)}; trying for {left_seconds:.0f} s more")
