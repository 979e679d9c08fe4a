"""Progress of everything long, with rate and time left.

As a bar on a terminal and as log lines elsewhere; nothing of what takes less than a second.
"""

import logging
import sys
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)

_LINE_EVERY_SECONDS = 10.0
_SHOWN_AFTER_SECONDS = 1.0
_BAR_WIDTH = 28


class Progress:
    """Counts towards ``total`` of ``unit``; a bar on a terminal, log lines elsewhere.

    The log lines reach the Prefect API as well, so an operator sees the same. Call ``close`` at
    the end, or use it as a context manager. With ``total`` 0 it is not known how much there is.
    """

    def __init__(self, what: str, total: int, unit: str) -> None:
        self._what = what
        self._total = total
        self._unit = unit
        self._made_at = self._started_at = time.monotonic()
        self._first_done: int | None = None
        self._last_line_at = self._started_at
        self._is_terminal = sys.stderr.isatty()
        self._has_bar = False

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def update(self, done: int, note: str = "") -> None:
        """``done`` of ``total``; ``note`` is shown behind, e.g. the loss."""
        now = time.monotonic()
        if self._first_done is None:
            # What was done before we looked (a resumed run) must not count into the rate.
            self._first_done, self._started_at = done, now
        if now - self._made_at < _SHOWN_AFTER_SECONDS:
            return
        text = self._describe(done, now, note)
        if self._is_terminal:
            self._has_bar = True
            sys.stderr.write(f"\r\x1b[2K  {self._bar(done)}{text}")
            sys.stderr.flush()
        elif now - self._last_line_at >= _LINE_EVERY_SECONDS or done >= self._total > 0:
            self._last_line_at = now
            logger.info(text)

    def close(self) -> None:
        """End the bar's line."""
        if self._has_bar:
            sys.stderr.write("\n")
            sys.stderr.flush()

    def _bar(self, done: int) -> str:
        if not self._total:
            return ""
        filled = min(_BAR_WIDTH, _BAR_WIDTH * done // self._total)
        return f"[{'=' * filled}{' ' * (_BAR_WIDTH - filled)}] "

    def _describe(self, done: int, now: float, note: str) -> str:
        elapsed_seconds = now - self._started_at
        rate = (done - (self._first_done or 0)) / elapsed_seconds if elapsed_seconds > 0 else 0.0
        of_total = f" of {self._total:,}" if self._total else ""
        share = f" ({done / self._total:.0%})" if self._total else ""
        parts = [f"{self._what}: {done:,}{of_total} {self._unit}{share}"]
        if note:
            parts.append(note)
        if rate > 0:
            parts.append(f"{rate:,.0f} {self._unit}/s")
        if rate > 0 and self._total:
            left = max(self._total - done, 0) / rate
            parts.append(f"{int(left) // 60}:{int(left) % 60:02d} left")
        return ", ".join(parts)


def follow(what: str) -> Callable[[str, int, int], None]:
    """A callback ``(unit, done, total)`` for a step of several stages, one ``Progress`` a unit."""
    stages: dict[str, Progress] = {}

    def on_progress(unit: str, done: int, total: int) -> None:
        if unit not in stages:
            for earlier in stages.values():
                earlier.close()
            stages[unit] = Progress(what, total, unit)
        stages[unit].update(done)

    return on_progress
