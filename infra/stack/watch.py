"""Mends the servers of this machine by itself: ``python -m infra.stack.watch``, part of the stack.

Every few seconds it looks at all parts, and does what another ``perennial up`` would do when one is
dead or does not answer. ``perennial down`` ends it first, under the lock that it mends under, so
nothing rises again that a person has stopped.
"""

import logging
import os
import time

from infra.log import set_up_logging
from infra.settings import Settings
from infra.stack import control
from infra.stack.state import StackError, StackFolder, read_state
from infra.stack.status import inspect

logger = logging.getLogger(__name__)

LOOK_SECONDS = 3.0
_LONGEST_PAUSE_SECONDS = 300.0
"""Between two attempts on what does not start."""


def sick_parts(settings: Settings) -> list[str]:
    """Parts that need mending: they are to run, and do not."""
    if not read_state(StackFolder(settings.home_path)).is_up:
        return []
    return [one.part for one in inspect(settings) if one.condition in ("dead", "not answering")]


def mend_once(settings: Settings, pause_seconds: float) -> float:
    """Mend what is sick; returns how long to wait before the next look.

    Args:
        settings: Of the home.
        pause_seconds: What the call before has returned.
    """
    try:
        sick = sick_parts(settings)
        if sick:
            logger.warning("mending %s", ", ".join(sick))
            control.start(settings, tell=logger.info)
    except StackError as error:
        pause_seconds = min(2 * pause_seconds, _LONGEST_PAUSE_SECONDS)
        logger.warning("%s; tried again in %.0f s", error, pause_seconds)
        return pause_seconds
    return LOOK_SECONDS


def is_mine(settings: Settings) -> bool:
    """Whether this process is the one that is to watch; another one may have taken its place."""
    state = read_state(StackFolder(settings.home_path))
    record = state.parts.get("watch")
    return state.is_up and record is not None and record.pid == os.getpid()


def main() -> None:
    """Look and mend until SIGTERM, or until another process does."""
    settings = Settings()
    set_up_logging(settings.log_level)
    # Whoever starts this writes down who it is, right afterwards.
    time.sleep(LOOK_SECONDS)
    pause_seconds = LOOK_SECONDS
    while is_mine(settings):
        pause_seconds = mend_once(settings, pause_seconds)
        time.sleep(pause_seconds)


if __name__ == "__main__":
    main()
