"""A board that the driver and the workers of one life share: beats, and the wish to stop.

A few hundred bytes in the key-value store of Ray's head, read and written once a second by a thread
of each process, never by a step. It costs no process, as an actor would, and is gone with the head.
"""

import contextlib
import json
import logging
import threading
from collections.abc import Callable, Generator
from dataclasses import asdict

from ray.exceptions import RaySystemError
from ray.experimental.internal_kv import (
    _internal_kv_del,  # pyright: ignore[reportPrivateUsage]
    _internal_kv_exists,  # pyright: ignore[reportPrivateUsage]
    _internal_kv_get,  # pyright: ignore[reportPrivateUsage]
    _internal_kv_list,  # pyright: ignore[reportPrivateUsage]
    _internal_kv_put,  # pyright: ignore[reportPrivateUsage]
)

from training.cluster.pulse import Beat, Pulse

logger = logging.getLogger(__name__)

_NAMESPACE = "perennial"
_BEAT_SECONDS = 1.0
# What Ray's client of its head raises when that does not answer; RpcError is a RuntimeError.
UNREACHABLE = (RaySystemError, RuntimeError, ConnectionError, TimeoutError)


class Board:
    """The board with one name; any process of the cluster may open it.

    Args:
        name: Of this life alone.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def post(self, beat: Beat) -> None:
        """Replace this rank's beat."""
        body = json.dumps(asdict(beat)).encode()
        _internal_kv_put(f"{self._name}/beat/{beat.rank}", body, namespace=_NAMESPACE)

    def beats(self) -> list[Beat]:
        """The newest beat of every rank that has begun."""
        keys = _internal_kv_list(f"{self._name}/beat/", namespace=_NAMESPACE)
        bodies = [_internal_kv_get(key, namespace=_NAMESPACE) for key in keys]
        # One that was deleted in between belongs to a life that is over.
        return [Beat(**json.loads(body)) for body in bodies if body]

    def ask_to_stop(self) -> None:
        """All ranks take the step that they are in, save a checkpoint and end. Safe to repeat."""
        _internal_kv_put(f"{self._name}/stop", b"1", namespace=_NAMESPACE)

    def is_asked_to_stop(self) -> bool:
        """Whether somebody did."""
        return _internal_kv_exists(f"{self._name}/stop", namespace=_NAMESPACE)

    def remove(self) -> None:
        """Leave nothing in the head."""
        _internal_kv_del(f"{self._name}/", del_by_prefix=True, namespace=_NAMESPACE)


@contextlib.contextmanager
def on_board(board: Board, pulse: Pulse) -> Generator[Callable[[], bool]]:
    """Post a rank's beats while the body runs; yields what ``run_worker`` asks before every step.

    A head that is away for a moment is no reason to stop.
    """
    wants_stop, is_over = threading.Event(), threading.Event()

    def beat() -> None:
        while not is_over.wait(_BEAT_SECONDS):
            try:
                board.post(pulse.read())
                if board.is_asked_to_stop():
                    wants_stop.set()
            except UNREACHABLE as error:
                logger.debug("no beat of this rank was taken: %s", error)

    def ask() -> bool:
        pulse.begin_step()
        return wants_stop.is_set()

    beating = threading.Thread(target=beat, name="beats", daemon=True)
    beating.start()
    try:
        yield ask
    finally:
        is_over.set()
        # Not joined: a beat may hang in a call to a head that is gone, and must not hold the end.
