"""SIGTERM with notice, as of a machine that is about to go: save, give back, end well."""

import contextlib
import contextvars
import signal
import sys
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

import typer
from prefect.exceptions import TerminationSignal
from prefect.runtime import deployment

T = TypeVar("T")

GO_ON = "run the same command again to go on"
_BOTH = (signal.SIGTERM, signal.SIGINT)
_SECONDS_TO_END = 5.0
"""For the work, after a signal that does not wait for it."""
_LOOK_UP_SECONDS = 0.5


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
    ended = _End[T]()
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


class _End(Generic[T]):
    """How the work ended, for a thread into which a signal may break at any moment.

    Not a Future: one that breaks into the methods of its lock leaves it taken, for ever.
    """

    def __init__(self) -> None:
        self._results: list[T] = []
        self._errors: list[BaseException] = []
        # Written in C, with nothing that a signal could leave half done.
        self._wakes: SimpleQueue[None] = SimpleQueue()

    def tell_result(self, result: T) -> None:
        self._results.append(result)
        self._wakes.put(None)

    def tell_error(self, error: BaseException) -> None:
        self._errors.append(error)
        self._wakes.put(None)

    def result(self) -> T:
        """Wait for it; after a signal it may be asked for again.

        The system may have another thread hear a signal, which wakes nobody here: so it looks up.
        """
        while not self._results and not self._errors:
            with contextlib.suppress(Empty):
                self._wakes.get(timeout=_LOOK_UP_SECONDS)
        if self._errors:
            raise self._errors[0]
        return self._results[0]


def _run(work: Callable[[threading.Event], T], asked: threading.Event, ended: _End[T]) -> None:
    # Or every process that the work starts would be deaf for them.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _BOTH)
    try:
        ended.tell_result(work(asked))
    except BaseException as error:  # whatever it is, the main thread raises it
        ended.tell_error(error)


def _waited_for(thread: threading.Thread, ended: _End[T], asked: threading.Event) -> T:
    try:
        # Until it has started, nothing would end.
        signal.pthread_sigmask(signal.SIG_BLOCK, _BOTH)
        try:
            thread.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _BOTH)
        return ended.result()
    except TerminationSignal:
        _set_undisturbed(asked)
        result = ended.result()
        if deployment.id is not None:
            raise
        return result


def _set_undisturbed(event: threading.Event) -> None:
    """Set it; a signal that comes meanwhile is heeded afterwards, or it would break into a lock."""
    heard: list[int] = []
    handlers = {
        number: signal.signal(number, lambda number, _: heard.append(number)) for number in _BOTH
    }
    try:
        event.set()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    for number in heard[:1]:
        signal.raise_signal(number)


def end_well_on_sigterm() -> None:
    """Let SIGTERM end this command with exit code 0 and a sentence, wherever it is.

    Prefect, while a flow runs, makes an exception of the signal, so that the lease is given back,
    and raises it again afterwards.
    """
    signal.signal(signal.SIGTERM, _end_well)


def _end_well(*_: object) -> None:
    typer.echo(f"stopped; {GO_ON}", err=True)
    sys.exit(0)
