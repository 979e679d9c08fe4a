"""Keeps a training on Ray going: a process that speaks to Ray, started again when it dies.

Ray starts the workers; what they resume from is our own newest verified checkpoint, never Ray's.
Whether they are started again is decided here: Ray would repeat an error that must come again, and
wait for lost machines for ever. No worker needs a file of another machine: data and checkpoints go
through the object store, whose credentials every process finds in its own machine's environment.

Ray itself is in another process (``training.cluster.driver``): Ray ends any process of its own
whose head is lost, and this one has a lease to give back. Importing this module does not import
torch or Ray, and neither does running it.
"""

import contextlib
import logging
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path

from training.checkpoint.index import CheckpointConfig
from training.cluster.connection import require_head
from training.cluster.elastic import Workers
from training.cluster.failures import DRIVER, Failures, WorkerLostError, repeat
from training.config import TrainPlan
from training.errors import TrainingError
from training.parallel.config import ParallelConfig

logger = logging.getLogger(__name__)

HEAD_LOST = 3
"""Exit code of a driver whose head, or own node, is gone."""

_POLL_SECONDS = 0.2
_RETRY_SECONDS = 1.0
"""Between two looks for a head that was lost."""
_OWN_START_SECONDS = 120.0
_END_SECONDS = 20.0
"""For the driver to stop a Ray of our own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a Ray worker needs to know; pickled by Ray on its way there."""

    plan: TrainPlan
    store_uri: str
    work_dir: Path
    """On whatever machine the worker is; created there."""
    num_threads: int
    use_gpu: bool
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    checkpoints: CheckpointConfig = field(default_factory=CheckpointConfig)
    asked_at: float | None = None
    """When the life of the workers that begins with it was wished for, seconds since the epoch."""

    @property
    def resources(self) -> dict[str, float]:
        """Of one worker, in Ray's words."""
        return {"CPU": 1, "GPU": 1} if self.use_gpu else {"CPU": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """When a worker counts as lost, and how much of that is borne."""

    max_failures: int
    wait_seconds: float
    """For room in the cluster, and for a head that was lost."""
    silence_seconds: float
    """Of one rank towards another."""
    widen_seconds: float = 10.0
    """How long there must be room for more workers before they are taken in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the driver is told when it starts."""

    job: Job
    workers: Workers
    address: str | None
    patience: Patience
    log_level: int

    @property
    def wait_seconds(self) -> float:
        """For room: a cluster of our own has all that it will ever have."""
        return self.patience.wait_seconds if self.address else 0.0

    def asked_again(self) -> "Request":
        """The same, for the life after one that has just ended."""
        return replace(self, job=replace(self.job, asked_at=time.time()))


@dataclass(frozen=True, slots=True)
class LifeEnded:
    """One life of the worker group is over: nothing lost, or what was."""

    failures: Failures | None
    error: TrainingError | None = None
    """What no other life would mend."""


@dataclass(frozen=True, slots=True)
class Said:
    """A line of the driver's log."""

    name: str
    level: int
    message: str


class Connected:
    """The driver has its Ray."""


def run_on_ray(
    job: Job,
    workers: Workers,
    address: str | None,
    patience: Patience,
    is_asked_to_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Run ``job`` on the Ray at ``address``, or on one of our own, to its end or a wished stop.

    The processes that watch the workers run on this process's own machine, so that the loss of
    any other machine leaves them alive. A machine that dies is noticed when its connections break;
    one that falls silent, when Ray's head gives it up (``RAY_health_check_*`` of the head), or
    after ``silence_seconds``. A head that dies is waited for; one of our own is replaced.

    Args:
        job: What to train.
        workers: Fewest and most.
        address: A running cluster; None starts one and stops it at the end.
        patience: What is borne.
        is_asked_to_stop: Once true, the workers take the step that they are in, save a checkpoint
            and end.

    Raises:
        TrainingError: There were more failures than ``patience`` allows, no room in time, or no
            such cluster.
    """
    if address is not None:
        require_head(address)
    request = Request(
        job=job,
        workers=workers,
        address=address,
        patience=patience,
        log_level=logging.getLogger("training").getEffectiveLevel(),
    )
    with contextlib.closing(_Driver(request, is_asked_to_stop)) as driver:
        repeat(driver.live, job.plan.update, patience.max_failures)


def start_driver(module: str) -> tuple[subprocess.Popen[bytes], Connection]:
    """Start the ``main`` of ``module`` in a process of its own, with a line to it."""
    ours, theirs = socket.socketpair()
    with theirs:
        # Not by -m: Ray's workers must find what it sends them under its module's name. Out of
        # reach of the terminal's Ctrl-C, which Ray would take for a wish of its own. Ray prints on
        # standard output, and what a command prints there must stay readable by machines.
        code = f"from {module} import main; main({theirs.fileno()})"
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=sys.__stderr__ or subprocess.DEVNULL,
            start_new_session=True,
        )
    return process, Connection(ours.detach())


class _Driver:
    """The process that speaks to Ray; started when it is needed, and again after its death."""

    def __init__(self, request: Request, is_asked_to_stop: Callable[[], bool]) -> None:
        self._request, self._is_asked_to_stop = request, is_asked_to_stop
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._was_connected = False

    def live(self) -> Failures | None:
        """One life of the worker group: None when it ended as it should, else what was lost.

        Raises:
            TrainingError: There is no such cluster, or no room in it.
        """
        if self._is_asked_to_stop():
            return None
        give_up_at = time.monotonic() + self._start_patience
        while self._process is None:
            try:
                self._start()
            except TrainingError as error:
                if time.monotonic() >= give_up_at:
                    raise
                if self._is_asked_to_stop():
                    return None
                logger.info("waiting for Ray's head: %s", error)
                time.sleep(_RETRY_SECONDS)
        return self._live()

    @property
    def _start_patience(self) -> float:
        """Seconds in which an attempt that fails is followed by another one."""
        if self._was_connected:
            return self._request.patience.wait_seconds
        # Ray gives its own parts 30 s to start, which a busy machine may exceed. A cluster that
        # does not answer the first time may be one that never was.
        return _OWN_START_SECONDS if self._request.address is None else 0.0

    def close(self) -> None:
        """End the driver, and with it a Ray of our own."""
        if self._process is None or self._connection is None:
            return
        # Nothing more comes: it shuts down.
        self._connection.close()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = self._connection = None

    def _start(self) -> None:
        address = self._request.address
        if address is not None:
            require_head(address)
        self._process, connection = start_driver("training.cluster.driver")
        logger.info("starting Ray" if address is None else f"joining the Ray at {address}")
        self._connection = connection
        self._connection.send(self._request)
        with self._undone_when_it_fails():
            message = self._next_message()
            while isinstance(message, Said):
                message = self._next_message()
            if isinstance(message, TrainingError):
                raise message
            if message is None:
                raise TrainingError(
                    f"Ray must start for {self._request.job.plan.update}, and ended instead: "
                    f"{self._how_it_ended()}; look at what it wrote above, then run it again"
                )
        self._was_connected = True

    @contextlib.contextmanager
    def _undone_when_it_fails(self) -> Generator[None]:
        try:
            yield
        except BaseException:
            self.close()
            raise

    def _live(self) -> Failures | None:
        assert self._connection is not None
        with contextlib.suppress(OSError):
            self._connection.send("live")
        has_told = False
        while True:
            if self._is_asked_to_stop() and not has_told:
                has_told = True
                with contextlib.suppress(OSError):
                    self._connection.send("stop")
            if not self._connection.poll(_POLL_SECONDS):
                continue
            message = self._next_message()
            if message is None:
                how = self._how_it_ended()
                self.close()
                self._request = self._request.asked_again()
                # Whoever is asked to stop need not be replaced.
                return None if has_told else {DRIVER: WorkerLostError(how)}
            if isinstance(message, LifeEnded):
                if message.error is not None:
                    raise message.error
                return message.failures

    def _next_message(self) -> object:
        """What the driver says, logged if it is for the log; None when it is dead."""
        assert self._connection is not None
        try:
            message = self._connection.recv()
        except (EOFError, OSError):
            return None
        if isinstance(message, Said):
            logging.getLogger(message.name).log(message.level, "%s", message.message)
        return message

    def _how_it_ended(self) -> str:
        assert self._process is not None
        code = self._process.wait()
        if code == HEAD_LOST:
            return "Ray's head does not answer any more"
        return f"killed by signal {-code}" if code < 0 else f"exit code {code}"
