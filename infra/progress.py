"""Progress of everything long, with rate and time left.

As a bar on a terminal and as log lines elsewhere; nothing of what takes less than a second.
"""

import logging
import sys
import time
from collections import deque
from collections.abc import Callable

logger = logging.getLogger(__name__)

WINDOW_SECONDS = 20.0
"""Rates are those of the last so many seconds: what was slow an hour ago says nothing of now."""
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
        self._made_at = self._last_line_at = time.monotonic()
        self._seen: deque[tuple[float, int]] = deque()
        self._is_terminal = sys.stderr.isatty()
        self._has_bar = False

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def update(self, done: int, note: str = "", *, rate: float | None = None) -> None:
        """``done`` of ``total``; ``note`` is shown behind, e.g. the loss.

        Args:
            done: Of ``total``; what was done before the first call counts into no rate.
            note: For people.
            rate: Units a second, by who knows better than the times of these calls.
        """
        now = time.monotonic()
        own_rate = self._rate(done, now)
        if now - self._made_at < _SHOWN_AFTER_SECONDS:
            return
        text = f"{self._what}: " + progress_line(
            done, self._total, self._unit, rate=own_rate if rate is None else rate, note=note
        )
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

    def _rate(self, done: int, now: float) -> float:
        """Over the window, or since the first call."""
        seen = self._seen
        if seen and done < seen[-1][1]:
            seen.clear()  # begun again from an earlier place
        seen.append((now, done))
        while len(seen) > 2 and now - seen[1][0] >= WINDOW_SECONDS:
            seen.popleft()
        seconds = now - seen[0][0]
        return (done - seen[0][1]) / seconds if seconds > 0 else 0.0

    def _bar(self, done: int) -> str:
        if not self._total:
            return ""
        filled = min(_BAR_WIDTH, _BAR_WIDTH * done // self._total)
        return f"[{'=' * filled}{' ' * (_BAR_WIDTH - filled)}] "


def progress_line(done: int, total: int, unit: str, *, rate: float, note: str = "") -> str:
    """``12.3M of 50.0M tokens (25%), 4,310 tokens/s, <note>, 2:31 left``.

    Args:
        done: Of ``total``.
        total: 0 when nobody knows how much there is.
        unit: Of both.
        rate: Units a second; 0 when it is not known, and then no time is promised.
        note: What else there is to say.
    """
    of_total = f" of {counted(total, total)}" if total else ""
    share = f" ({done / total:.0%})" if total else ""
    parts = [f"{counted(done, total)}{of_total} {unit}{share}"]
    if rate > 0:
        parts.append(f"{rate:,.0f} {unit}/s")
    if note:
        parts.append(note)
    if rate > 0 and total:
        parts.append(f"{duration(max(total - done, 0) / rate)} left")
    return ", ".join(parts)


def counted(count: int, scale: int = 0) -> str:
    """A count for people: in full, or in millions or billions when ``scale``, or itself, is so."""
    for size, letter in ((10**9, "B"), (10**6, "M")):
        if max(count, scale) >= size:
            return f"{count / size:,.1f}{letter}"
    return f"{count:,}"


def duration(seconds: float) -> str:
    """``2:31`` minutes and seconds, or ``2:10 h`` hours and minutes from an hour on."""
    if seconds < 3600:
        return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
    return f"{int(seconds) // 3600:,}:{int(seconds) % 3600 // 60:02d} h"


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
