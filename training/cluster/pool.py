"""A function applied to many items by workers of Ray, of which any may be lost at any time.

As for training, Ray is in another process (``training.cluster.pool_driver``), which is started
again when it dies. Items are handed out as workers become free and results handed back as they are
done, so that neither all items nor all results are ever in memory. Importing this module does not
import torch or Ray, and neither does running it.
"""

import contextlib
import logging
import os
import pickle
import queue
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from training.cluster.connection import require_head
from training.cluster.run import Said, start_driver
from training.errors import TrainingError

logger = logging.getLogger(__name__)

_END_SECONDS = 20.0
"""For the driver to stop a Ray of our own."""
_RETRY_SECONDS = 1.0
_ITEMS_A_WORKER = 4
"""One that it works at, others that wait for it or for one that is long in coming."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Which workers, and how much is borne of them."""

    what: str
    """They do, as in ``scoring``."""
    num_workers: int
    address: str | None
    """Of a running cluster; None starts one and stops it at the end."""
    max_failures: int
    wait_seconds: float
    """For room in the cluster."""
    use_gpu: bool = False
    log_level: int = logging.INFO


@dataclass(frozen=True, slots=True)
class Start:
    """What the driver is told first."""

    pool: Pool
    make: bytes
    """Pickled: makes the function, once in each worker."""


@dataclass(frozen=True, slots=True)
class Given:
    """An item for a worker."""

    number: int
    item: bytes
    """Pickled; the driver never looks inside."""


@dataclass(frozen=True, slots=True)
class Done:
    """What the function made of an item."""

    number: int
    result: bytes


@dataclass(frozen=True, slots=True)
class Failed:
    """The driver gives up; what no other attempt would mend."""

    error: Exception


def map_on_ray(
    make: Callable[[], Callable[[Item], Result]], items: Iterable[Item], pool: Pool
) -> Iterator[tuple[int, Result]]:
    """Each item's number and result, in the order in which they are done.

    Args:
        make: Makes the function, in a worker; it is pickled, and so are items and results.
        items: Taken as workers have need of them, four for each at most.
        pool: The workers.

    Raises:
        TrainingError: There were more than ``max_failures`` losses of workers, no room for one in
            time, or no such cluster.
        Exception: What the function raised, if that is a ``TrainingError``, ``StorageError`` or
            ``ValueError``; of others the text.
    """
    level = logging.getLogger("training").getEffectiveLevel()
    start = Start(replace(pool, log_level=level), pickle.dumps(make))
    work = _Work(enumerate(items), _ITEMS_A_WORKER * pool.num_workers)
    failures = 0
    while work.has_more():
        if pool.address is not None:
            require_head(pool.address)
        lost = yield from _attempt(start, work)
        if lost is None:
            return
        failures += 1
        if failures > pool.max_failures:
            raise TrainingError(
                f"{pool.what} must end with at most {pool.max_failures} failures of Ray, and "
                f"failed again: {lost}; run it again, it goes on with what is missing"
            )
        logger.warning(
            f"{pool.what} was cut off, {failures} of at most {pool.max_failures} times: {lost}; it "
            "goes on with what is missing"
        )
        time.sleep(_RETRY_SECONDS)


class _Work:
    """The items, of which a few are with workers."""

    def __init__(self, items: Iterator[tuple[int, Any]], most_given: int) -> None:
        self._items, self._most_given = items, most_given
        self.given: dict[int, bytes] = {}
        """Pickled, by number; kept until they are done."""
        self._next = 0
        self._is_exhausted = False

    def has_more(self) -> bool:
        """Whether any item is not done."""
        return bool(self.given) or self._take() is not None

    def new(self) -> Iterator[Given]:
        """Items to hand out now."""
        # None far ahead of one that is long in coming: who wants them in order keeps the others.
        while self._next - min(self.given, default=self._next) < self._most_given:
            if (given := self._take()) is None:
                return
            yield given

    def _take(self) -> Given | None:
        if self._is_exhausted:
            return None
        for number, item in self._items:
            self._next = number + 1
            self.given[number] = pickle.dumps(item, pickle.HIGHEST_PROTOCOL)
            return Given(number, self.given[number])
        self._is_exhausted = True
        return None


def _attempt(start: Start, work: _Work) -> Generator[tuple[int, Any], None, str | None]:
    """One life of the driver; returns how it ended, None when everything is done."""
    process, connection = start_driver("training.cluster.pool_driver")
    with _heard(process, connection) as messages:
        _send(connection, [start, *(Given(*item) for item in work.given.items())])
        while True:
            _send(connection, work.new())
            if not work.given:
                _send(connection, ["end"])
            message = messages.get()
            if message is None:
                if not work.given:
                    return None
                code = process.wait()
                return f"killed by signal {-code}" if code < 0 else f"exit code {code}"
            if isinstance(message, Said):
                logging.getLogger(message.name).log(message.level, "%s", message.message)
            elif isinstance(message, Done):
                del work.given[message.number]
                yield message.number, pickle.loads(message.result)
            elif isinstance(message, Failed):
                raise message.error


@contextlib.contextmanager
def _heard(
    process: "subprocess.Popen[bytes]", connection: Connection
) -> Generator["queue.Queue[Any]"]:
    """What the driver says, then None; ends it when it is not needed any more."""
    messages: queue.Queue[Any] = queue.Queue()
    receiver = threading.Thread(target=_receive, args=(connection, messages), daemon=True)
    receiver.start()
    try:
        yield messages
    finally:
        # Closing alone would not end a read of the other thread, nor be seen at the other end.
        with (
            contextlib.suppress(OSError),
            socket.socket(fileno=os.dup(connection.fileno())) as line,
        ):
            line.shutdown(socket.SHUT_RDWR)
        receiver.join()
        connection.close()
        _ended(process)


def _receive(connection: Connection, messages: "queue.Queue[Any]") -> None:
    """Take what the driver says as soon as it says it, so that it never waits; None at its end."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            messages.put(connection.recv())
    messages.put(None)


def _send(connection: Connection, messages: Iterable[object]) -> None:
    """Say something; that nobody listens any more is heard from the other side."""
    for message in messages:
        with contextlib.suppress(OSError):
            connection.send(message)


def _ended(process: "subprocess.Popen[bytes]") -> None:
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
