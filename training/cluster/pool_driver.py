"""The process that speaks to Ray for ``training.cluster.pool``, which starts it."""

import logging
import pickle
import threading
import time
from collections import deque
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from training.cluster.connection import connected_ray, prepare_environment
from training.cluster.driver import Line, Relay, end_with_head
from training.cluster.failures import portable
from training.cluster.pool import Done, Failed, Given, Pool, Start
from training.errors import TrainingError

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 5.0
"""Between two looks at whether there is room."""
_OFTEN_SECONDS = 0.05
"""Between two looks at what is given, while a worker is idle."""
_OWN_START_SECONDS = 120.0
"""For a worker on a Ray of our own, which has all the room that it will ever have."""


def main(descriptor: int) -> None:
    """Serve the process at the other end of the socket ``descriptor``."""
    connection = Connection(descriptor)
    start: Start = connection.recv()
    line = Line(connection)
    logging.basicConfig(level=start.pool.log_level, handlers=[Relay(line)])
    threading.Thread(target=line.listen, name="orders", daemon=True).start()
    try:
        prepare_environment(start.pool.address)
        with connected_ray(start.pool.address, start.pool.num_workers):
            logging.getLogger("ray").propagate = False
            threading.Thread(target=end_with_head, name="head-watch", daemon=True).start()
            _Mapping(start, line).run()
    except Exception as error:
        # Whatever it is: the other process waits for an answer, and may not know Ray's errors.
        line.send(Failed(_portable(error)))


class PoolWorker:
    """A process of Ray that applies the function."""

    def __init__(self, make: bytes) -> None:
        self._function: Callable[[Any], Any] = pickle.loads(make)()

    def ready(self) -> None:
        """Return once there is room for this worker, and it has begun."""

    def apply(self, item: bytes) -> bytes:
        """What the function makes of an item, both pickled."""
        result = self._function(pickle.loads(item))
        return pickle.dumps(result, pickle.HIGHEST_PROTOCOL)


class _Mapping:
    """Hands items to workers as they become free, and again when a worker is lost."""

    def __init__(self, start: Start, line: Line) -> None:
        import ray  # noqa: PLC0415  heavy, see training.launch

        self._ray: Any = ray
        self._pool: Pool = start.pool
        self._line = line
        self._todo: deque[Given] = deque()
        self._running: dict[Any, tuple[Any, Given | None]] = {}
        """Worker and item by Ray's reference; no item while a worker starts."""
        self._num_workers = 0
        self._failures = 0
        self._idle: list[Any] = []
        self._make = ray.put(start.make)

    def run(self) -> None:
        """Until the other process says that there is no more.

        Raises:
            TrainingError: No room for a single worker in time, or too many were lost.
        """
        patience = self._pool.wait_seconds if self._pool.address else _OWN_START_SECONDS
        give_up_at = time.monotonic() + patience
        while self._take_orders():
            self._employ()
            if not self._running:
                continue
            # A worker that is idle must not wait for others before it is given something.
            look_seconds = _OFTEN_SECONDS if self._idle else _LOOK_SECONDS
            done, _ = self._ray.wait(list(self._running), num_returns=1, timeout=look_seconds)
            for reference in done:
                self._take(reference)
            if any(item is not None for _, item in self._running.values()) or not self._todo:
                give_up_at = time.monotonic() + patience
            elif time.monotonic() >= give_up_at:
                raise TrainingError(
                    f"{self._pool.what} needs room for a worker with 1 CPU{self._gpu}, and there "
                    f"was none for {patience:.0f} s; add a machine, or run it again when there is "
                    "room"
                )

    @property
    def _gpu(self) -> str:
        return " and 1 GPU" if self._pool.use_gpu else ""

    def _take_orders(self) -> bool:
        """Take what was given; waits while there is nothing else to do. False at the end."""
        is_waiting = not (self._todo or self._running)
        while (order := self._line.next_item(wait=is_waiting)) is not None:
            if order == "end":
                return False
            assert isinstance(order, Given)
            self._todo.append(order)
            is_waiting = False
        return True

    def _employ(self) -> None:
        """Give idle workers what is to do; begins workers while there is more than they take."""
        while self._todo and self._idle:
            worker, given = self._idle.pop(), self._todo.popleft()
            self._running[worker.apply.remote(given.item)] = (worker, given)
        starting = sum(item is None for _, item in self._running.values())
        while starting < len(self._todo) and self._num_workers < self._pool.num_workers:
            self._add_worker()
            starting += 1

    def _add_worker(self) -> None:
        num_gpus = int(self._pool.use_gpu)
        made = self._ray.remote(num_cpus=1, num_gpus=num_gpus)(PoolWorker)
        worker = made.remote(self._make)
        self._running[worker.ready.remote()] = (worker, None)
        self._num_workers += 1

    def _take(self, reference: Any) -> None:
        """Hand on one answer; its worker is free again."""
        from ray.exceptions import RayActorError  # noqa: PLC0415  heavy, see training.launch

        worker, given = self._running.pop(reference)
        try:
            result = self._ray.get(reference)
        except RayActorError as error:
            self._lost(given, error)
            return
        if given is not None:
            self._line.send(Done(given.number, result))
        self._idle.append(worker)

    def _lost(self, given: Given | None, error: Exception) -> None:
        self._failures += 1
        self._num_workers -= 1
        told = next((line for line in str(error).splitlines() if line.strip()), "no message")
        if self._failures > self._pool.max_failures:
            raise TrainingError(
                f"{self._pool.what} must end with at most {self._pool.max_failures} losses of a "
                f"worker, and lost another: {told}; run it again, it goes on with what is missing"
            )
        logger.warning(f"a worker for {self._pool.what} was lost ({told}); another takes its place")
        if given is not None:
            self._todo.appendleft(given)


def _portable(error: Exception) -> Exception:
    """An error that a process can read that has never heard of Ray."""
    found = portable({0: getattr(error, "cause", None) or error})[0]
    return found if isinstance(found, Exception) else RuntimeError(str(found))
