"""SIGTERM with notice, as of a machine that is about to go: save, give back, end well."""

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Generator

import typer
from prefect.runtime import deployment

logger = logging.getLogger(__name__)

GO_ON = "run the same command again to go on"


@contextlib.contextmanager
def heeded_sigterm() -> Generator[threading.Event]:
    """While the body runs, the first SIGTERM sets the event; the next one does what it did before.

    Only in the main thread, where Python handles signals; elsewhere the event stays unset.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.getsignal(signal.SIGTERM)

    def heed(*_: object) -> None:
        asked.set()
        signal.signal(signal.SIGTERM, before)

    signal.signal(signal.SIGTERM, heed)
    try:
        yield asked
    finally:
        if signal.getsignal(signal.SIGTERM) is heed:
            signal.signal(signal.SIGTERM, before)


def end_for_runner() -> None:
    """End this process by the SIGTERM that it has heeded, if ``perennial serve`` has started it.

    Prefect then knows the run as crashed or cancelled, as whoever sent the signal wanted it; a run
    that ended well would not go on later.
    """
    if deployment.id is not None:
        os.kill(os.getpid(), signal.SIGTERM)


def end_well_on_sigterm() -> None:
    """Let SIGTERM end this command with exit code 0 and a sentence, wherever it is.

    Prefect, while a flow runs, makes an exception of the signal, so that the lease is given back,
    and raises it again afterwards.
    """
    signal.signal(signal.SIGTERM, _end_well)


def _end_well(*_: object) -> None:
    typer.echo(f"stopped; {GO_ON}", err=True)
    sys.exit(0)
