"""How fast a run is now: tokens a second and MFU over its last rows of metrics. Needs no torch."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from infra.progress import WINDOW_SECONDS
from training.metrics import ELAPSED_SECONDS, LIFE, LOSS, MFU, STEP, STEP_SECONDS


@dataclass(frozen=True, slots=True)
class _Step:
    seconds: float
    """Since the step before, what is recorded and saved in between included."""
    busy_seconds: float
    """``mfu`` times the step's own time."""


class Speed:
    """Follows the rows of a run, in order; forgets what is older than the window.

    A start of the workers begins the window anew: what they do before their first step is no speed
    of training, and there may be fewer of them than before.

    Args:
        batch_tokens: Tokens of a step, over all workers.
        window_seconds: As much of the past as counts, or one step if that takes longer.
    """

    def __init__(self, batch_tokens: int, *, window_seconds: float = WINDOW_SECONDS) -> None:
        self._batch_tokens, self._window_seconds = batch_tokens, window_seconds
        self._steps: deque[_Step] = deque()
        self._seconds = self._busy_seconds = 0.0
        self._last: dict[str, Any] = {}
        self._loss: float | None = None

    def add(self, rows: Iterable[dict[str, Any]]) -> None:
        """Take in new rows; those of a version that did not time its steps are passed over."""
        for row in rows:
            if STEP_SECONDS in row:
                self._add(row)
            self._loss = row.get(LOSS)
            self._last = row

    @property
    def tokens_per_second(self) -> float:
        """Over all workers; 0 when nothing is known."""
        if not self._seconds:
            return 0.0
        return self._batch_tokens * len(self._steps) / self._seconds

    @property
    def tokens(self) -> int:
        """How far the run is, batches that were passed over included."""
        return self._last.get(STEP, 0) * self._batch_tokens

    @property
    def note(self) -> str:
        """MFU and loss, for people."""
        loss = "batch passed over" if self._loss is None else f"loss {self._loss:.3f}"
        if not self._seconds:
            return loss
        return f"MFU {self._busy_seconds / self._seconds:.0%}, {loss}"

    def _add(self, row: dict[str, Any]) -> None:
        seconds = row[STEP_SECONDS]
        if row[LIFE] != self._last.get(LIFE):
            self._steps.clear()
            self._seconds = self._busy_seconds = 0.0
        elif row[STEP] == self._last[STEP] + 1:
            seconds = max(seconds, row[ELAPSED_SECONDS] - self._last[ELAPSED_SECONDS])
        self._steps.append(_Step(seconds, row[MFU] * row[STEP_SECONDS]))
        self._seconds += seconds
        self._busy_seconds += self._steps[-1].busy_seconds
        while self._seconds - self._steps[0].seconds >= self._window_seconds:
            gone = self._steps.popleft()
            self._seconds -= gone.seconds
            self._busy_seconds -= gone.busy_seconds


def speed_of(rows: list[dict[str, Any]], batch_tokens: int) -> float:
    """Mean tokens a second of the last of these rows that one life wrote; 0 when nothing is known.

    Args:
        rows: In the order of their steps.
        batch_tokens: Tokens of a step.
    """
    speed = Speed(batch_tokens, window_seconds=float("inf"))
    speed.add(rows)
    return speed.tokens_per_second
