"""Looks after one life of the worker group: its beats, machines, room, and the wish to stop."""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING

from training.cluster.elastic import widest
from training.cluster.pulse import Beat
from training.cluster.room import draining_nodes, free_room
from training.cluster.run import Request
from training.cluster.watchdog import QUIET_SECONDS, Watchdog

if TYPE_CHECKING:
    from training.cluster.board import Board

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 2.0
"""Between two looks at beats, machines and room."""
_POLL_SECONDS = 0.2


@contextlib.contextmanager
def overseen(
    request: Request, board_name: str, num_workers: int, counts: list[int], stop: threading.Event
) -> Generator[Watchdog]:
    """Look after the workers from a thread while the body runs."""
    from training.cluster.board import Board  # noqa: PLC0415  imports Ray

    board = Board(board_name)
    overseer = _Overseer(request, board, num_workers, counts)
    is_over = threading.Event()
    thread = threading.Thread(target=overseer.run, args=(stop, is_over), name="overseer")
    thread.start()
    try:
        yield overseer.watchdog
    finally:
        is_over.set()
        thread.join()
        board.remove()


class _Overseer:
    """Looks at beats, machines and room, and asks the workers to stop when there is a reason."""

    def __init__(
        self, request: Request, board: "Board", num_workers: int, counts: list[int]
    ) -> None:
        self._request, self._board = request, board
        self._num_workers, self._counts = num_workers, counts
        quiet_seconds = min(QUIET_SECONDS, request.patience.silence_seconds / 2)
        self.watchdog = Watchdog(quiet_seconds)
        self._wider_since: float | None = None
        self._stage = ""

    def run(self, stop: threading.Event, is_over: threading.Event) -> None:
        """Until the life is over."""
        from training.cluster.board import UNREACHABLE  # noqa: PLC0415  imports Ray

        has_asked, look_at = False, 0.0
        while not is_over.wait(_POLL_SECONDS):
            is_urgent = stop.is_set() and not has_asked
            if time.monotonic() < look_at and not is_urgent:
                continue
            look_at = time.monotonic() + _LOOK_SECONDS
            try:
                reason = self._look(is_urgent)
                if reason and not has_asked:
                    logger.info("%s %s", self._request.job.plan.update, reason)
                    self._board.ask_to_stop()
                    has_asked = True
            except UNREACHABLE as error:
                logger.debug("Ray's head did not answer: %s", error)

    def _look(self, is_to_stop: bool) -> str:
        """Why the workers should stop now; empty when they should not."""
        beats = self._board.beats()
        self._tell_stage(beats)
        for line in self.watchdog.look(beats, time.monotonic()):
            logger.warning("%s: %s", self._request.job.plan.update, line)
        if is_to_stop:
            if not beats:
                # No rank has begun: there is nothing to save, and Ray's start cannot be ended.
                os._exit(0)
            return "stops after this step"
        if self.watchdog.nodes & draining_nodes():
            return "stops after this step and starts anew: a machine is about to end"
        return self._wider(beats)

    def _tell_stage(self, beats: Sequence[Beat]) -> None:
        """Log what the rank that is furthest behind does before its first step, once a stage."""
        waiting = [beat for beat in beats if beat.stage]
        slowest = min(waiting, key=lambda beat: beat.progress, default=None)
        if slowest is not None and slowest.stage != self._stage:
            self._stage = slowest.stage
            logger.info("%s: %s", slowest.who, slowest.stage)

    def _wider(self, beats: Sequence[Beat]) -> str:
        if not beats or self._num_workers == self._counts[-1]:
            return ""
        count = widest(self._counts, self._num_workers + free_room(self._request.job))
        if count is None or count <= self._num_workers:
            self._wider_since = None
            return ""
        now = time.monotonic()
        self._wider_since = self._wider_since or now
        if now - self._wider_since < self._request.patience.widen_seconds:
            return ""
        return (
            f"stops after this step and starts anew: there is room for {count} workers instead of "
            f"{self._num_workers}"
        )
