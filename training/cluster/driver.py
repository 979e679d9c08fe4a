"""The process that speaks to Ray for one training.  ``training.cluster.run`` orders its lives.

It ends when Ray's head is lost, for Ray would end it anyway, a minute later and without a word; and
when the process that started it is gone.
"""

import contextlib
import logging
import os
import queue
import signal
import socket
import threading
import time
from multiprocessing.connection import Connection

from training.cluster.connection import connected_ray, prepare_environment
from training.cluster.life import live
from training.cluster.run import HEAD_LOST, Connected, LifeEnded, Request, Said
from training.errors import TrainingError

logger = logging.getLogger(__name__)

_START_SECONDS = 60.0
"""How long Ray waits for room at a time."""
_ELASTIC_START_SECONDS = 15.0
"""The same, when there may be room for another number meanwhile."""
_PROBE_SECONDS = 1.0
_REFUSALS = 3
"""In a row, after which nobody is at the head's address any more."""
_UNREACHABLE_SECONDS = 30.0
"""After which a head that cannot be reached counts as lost; Ray's own limit is a minute."""


class Line:
    """The connection to the process that started this one; used by several threads."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._mutex = threading.Lock()
        self._orders: queue.Queue[object] = queue.Queue()
        self._is_idle = threading.Event()
        self.stop = threading.Event()
        """Set when that process asks for a stop."""

    def send(self, message: object) -> None:
        """Say something; nobody listens any more when that process is gone."""
        with self._mutex, contextlib.suppress(OSError):
            self._connection.send(message)

    def listen(self) -> None:
        """Take orders until that process closes the line, or is gone."""
        with contextlib.suppress(EOFError, OSError):
            while True:
                order = self._connection.recv()
                if order == "stop":
                    self.stop.set()
                else:
                    self._orders.put(order)
        self._orders.put("end")
        # Who is idle shuts Ray down; nobody waits for the end of a life any more.
        while self._is_idle.is_set():
            time.sleep(_PROBE_SECONDS / 4)
        # With a Ray of our own, whose agents would wait a minute for their head; this process leads
        # a session of its own.
        os.killpg(0, signal.SIGKILL)

    def next_item(self, *, wait: bool) -> object | None:
        """What was sent next, or ``end``; None when nothing is there and one need not wait."""
        try:
            return self._orders.get(block=wait)
        except queue.Empty:
            return None

    def next_order(self) -> object:
        """``live`` or ``end``."""
        self._is_idle.set()
        order = self._orders.get()
        if order == "live":
            self._is_idle.clear()
        return order


class Relay(logging.Handler):
    """Hands the log to the process that started this one, where handlers and levels are set up."""

    def __init__(self, line: Line) -> None:
        super().__init__()
        self._line = line

    def emit(self, record: logging.LogRecord) -> None:
        """Send a line of the log."""
        self._line.send(Said(record.name, record.levelno, record.getMessage()))


def main(descriptor: int) -> None:
    """Serve the process at the other end of the socket ``descriptor``."""
    connection = Connection(descriptor)
    request: Request = connection.recv()
    line = Line(connection)
    logging.basicConfig(level=request.log_level, handlers=[Relay(line)])
    threading.Thread(target=line.listen, name="orders", daemon=True).start()
    try:
        _serve(request, line)
    except TrainingError as error:
        line.send(error)


def _serve(request: Request, line: Line) -> None:
    prepare_environment(request.address)
    _tell_ray(request)
    with connected_ray(request.address, request.workers[0]):
        # What Ray says in many words is told in few by our own modules.
        logging.getLogger("ray").propagate = False
        threading.Thread(target=end_with_head, name="head-watch", daemon=True).start()
        line.send(Connected())
        while line.next_order() == "live":
            try:
                line.send(LifeEnded(live(request, line.stop)))
            except TrainingError as error:
                line.send(LifeEnded(None, error))
            request = request.asked_again()


def _tell_ray(request: Request) -> None:
    """Set what Ray hands on to the process that watches the workers."""
    is_fixed = request.workers[0] == request.workers[1]
    longest = _START_SECONDS if is_fixed else _ELASTIC_START_SECONDS
    seconds = min(request.wait_seconds, longest) or longest
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = f"{seconds:g}"
    # One process less: the overseer looks for machines that are about to end.
    os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"


def end_with_head() -> None:
    """End this process when its head is gone, before Ray does, and tell why."""
    import ray  # noqa: PLC0415  heavy, see training.launch

    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    refusals, reached_at = 0, time.monotonic()
    while refusals < _REFUSALS and time.monotonic() - reached_at < _UNREACHABLE_SECONDS:
        time.sleep(_PROBE_SECONDS)
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
        except ConnectionRefusedError:
            refusals += 1
        except OSError as error:
            logger.debug("Ray's head cannot be reached: %s", error)
        else:
            refusals, reached_at = 0, time.monotonic()
    os._exit(HEAD_LOST)
