"""SIGTERM with notice, as of a machine that is about to go: save, give back, end well."""

import contextvars
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

import typer
from prefect.exceptions import TerminationSignal
from prefect.runtime import deployment

T = TypeVar("T")

GO_ON = "run the same command again to go on"
_BOTH = (signal.SIGTERM, signal.SIGINT)
_SECONDS_TO_END = 5.0
"""For the work, after a signal that does not wait for it."""


def drained(work: Callable[[threading.Event], T]) -> T:
    """The result of ``work``, which is asked by its event to come to an end when SIGTERM arrives.

    The work runs in a thread of its own. Signals are Python's main thread's business, and all that
    it does meanwhile is wait: so the exception that Prefect makes of SIGTERM can neither break into
    the work nor get lost in a callback of the garbage collection, and Prefect's own handler, by
    which its runner tells a cancellation from a crash, stays where it is. A second SIGTERM, or
    Ctrl-C, does not wait.

    Raises:
        TerminationSignal: ``perennial serve`` has started this run: Prefect then knows it as
            crashed or cancelled, as whoever sent the signal wanted it.
        Exception: What the work raises.
    """
    asked = threading.Event()
    ended: Future[T] = Future()
    context = contextvars.copy_context()
    thread = threading.Thread(
        target=context.run, args=(_run, work, asked, ended), name="drained", daemon=True
    )
    try:
        return _waited_for(thread, ended, asked)
    except BaseException:
        asked.set()
        thread.join(_SECONDS_TO_END)
        raise


def _run(work: Callable[[threading.Event], T], asked: threading.Event, ended: Future[T]) -> None:
    # Or every process that the work starts would be deaf for them.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _BOTH)
    try:
        ended.set_result(work(asked))
    except BaseException as error:  # whatever it is, the main thread raises it
        ended.set_exception(error)


def _waited_for(thread: threading.Thread, ended: Future[T], asked: threading.Event) -> T:
    try:
        # Until it has started, nothing would end.
        signal.pthread_sigmask(signal.SIG_BLOCK, _BOTH)
        try:
            thread.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _BOTH)
        return ended.result()
    except TerminationSignal:
        asked.set()
        result = ended.result()
        if deployment.id is not None:
            raise
        return result


def end_well_on_sigterm() -> None:
    """Let SIGTERM end this command with exit code 0 and a sentence, wherever it is.

    Prefect, while a flow runs, makes an exception of the signal, so that the lease is given back,
    and raises it again afterwards.
    """
    signal.signal(signal.SIGTERM, _end_well)


def _end_well(*_: object) -> None:
    typer.echo(f"stopped; {GO_ON}", err=True)
    sys.exit(0)
