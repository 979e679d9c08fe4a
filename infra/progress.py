"""Progress of everything long, with rate and time left.

As a bar on a terminal and as log lines elsewhere; nothing of what takes less than a second.
"""

import logging
import shutil
import sys
import time
from collections import deque

logger = logging.getLogger(__name__)

WINDOW_SECONDS = 20.0
"""Rates are those of the last so many seconds: what was slow an hour ago says nothing of now."""
_LINE_EVERY_SECONDS = 10.0
_SHOWN_AFTER_SECONDS = 1.0
_BAR_WIDTH = 28


class Rate:
    """How fast a count grows: over the window, or since the first call."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def at(self, now: float, done: int) -> float:
        """Units a second after ``done`` of them at the time ``now``; 0 at the first call."""
        seen = self._seen
        if seen and done < seen[-1][1]:
            seen.clear()  # begun again from an earlier place
        seen.append((now, done))
        while len(seen) > 2 and now - seen[1][0] >= WINDOW_SECONDS:
            seen.popleft()
        seconds = now - seen[0][0]
        return (done - seen[0][1]) / seconds if seconds > 0 else 0.0


class ProgressLine:
    """One line that is told again and again: over itself on a terminal, as log lines elsewhere.

    The log lines reach the Prefect API as well, so an operator sees the same.
    """

    def __init__(self) -> None:
        self._made_at = self._last_line_at = time.monotonic()
        self._is_terminal = sys.stderr.isatty()
        self._is_open = False

    def show(self, text: str, now: float, *, share: float | None, is_last: bool = False) -> None:
        """Show ``text``, if it is time to.

        Args:
            text: Without line ends.
            now: Of ``time.monotonic``.
            share: Done of all, from 0 to 1, for the bar; None when that is not known.
            is_last: Nothing follows, so it is logged whenever the line before was.
        """
        if now - self._made_at < _SHOWN_AFTER_SECONDS:
            return
        if self._is_terminal:
            self._is_open = True
            sys.stderr.write(f"\r\x1b[2K  {_fitting(_bar(share), text)}")
            sys.stderr.flush()
        elif now - self._last_line_at >= _LINE_EVERY_SECONDS or is_last:
            self._last_line_at = now
            logger.info(text)

    def close(self) -> None:
        """End the line on the terminal."""
        if self._is_open:
            self._is_open = False
            sys.stderr.write("\n")
            sys.stderr.flush()


class Progress:
    """Counts towards ``total`` of ``unit``, as a ``ProgressLine``.

    Call ``close`` at the end, or use it as a context manager. With ``total`` 0 it is not known how
    much there is.
    """

    def __init__(self, what: str, total: int, unit: str) -> None:
        self._what = what
        self._total = total
        self._unit = unit
        self._rate = Rate()
        self._line = ProgressLine()

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
        now, total = time.monotonic(), self._total
        own_rate = self._rate.at(now, done)
        text = f"{self._what}: " + progress_line(
            done, total, self._unit, rate=own_rate if rate is None else rate, note=note
        )
        share = done / total if total else None
        self._line.show(text, now, share=share, is_last=done >= total > 0)

    def close(self) -> None:
        """End the bar's line."""
        self._line.close()


def _bar(share: float | None) -> str:
    if share is None:
        return ""
    filled = int(_BAR_WIDTH * min(1.0, share))
    return f"[{'=' * filled}{' ' * (_BAR_WIDTH - filled)}] "


def _fitting(bar: str, text: str) -> str:
    """Both, or the text alone, or its beginning: a line that breaks could not be written over."""
    room = shutil.get_terminal_size().columns - 3
    if len(bar) + len(text) <= room:
        return bar + text
    return text if len(text) <= room else f"{text[: room - 3]}..."


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
