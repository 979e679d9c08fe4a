"""Wait for a condition, and say what was waited for when it does not come."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_POLL_SECONDS = 0.1


def wait_for(
    look: Callable[[], T | None],
    seconds: float,
    what: str,
    evidence: Callable[[], object] = lambda: "",
) -> T:
    """The first true result of ``look``.

    Args:
        look: Asked again and again.
        seconds: Patience.
        what: Is waited for, for the message.
        evidence: Asked for what else belongs into it.

    Raises:
        TimeoutError: It stayed false.
    """
    deadline = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s for {what} {evidence()}".rstrip())
        time.sleep(_POLL_SECONDS)
    return found
