"""Ends a flow run whose runner is gone: nobody could cancel it any more, or see how it ended."""

import logging
import os
import signal
import threading
import time

from prefect.runtime import deployment

logger = logging.getLogger(__name__)

RUNNER_PID = "_PERENNIAL_RUNNER_PID"
"""Variable in which ``perennial serve`` tells the runs that it starts who watches them."""
_POLL_SECONDS = 1.0


def end_with_runner() -> None:
    """End this process, as SIGTERM does, once the process that started it is gone.

    Only for what a runner started; a command in a shell is left alone. Prefect then marks the run
    as crashed, the lease is given back, and the next runner resumes it.
    """
    if deployment.id is None:
        return
    # One that died while this process was still importing has left us another parent.
    parent = int(os.environ.get(RUNNER_PID, os.getppid()))
    threading.Thread(target=_watch, args=(parent,), name="runner-watch", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL_SECONDS)
    logger.warning("the runner that started this run is gone: ending, the next one resumes it")
    os.kill(os.getpid(), signal.SIGTERM)
