"""Who is missing, and who is slow: what the beats of all ranks say, for the driver's log.

Pure: beats and the time go in, sentences come out. In a step all ranks wait for each other, so the
one that all wait for is the one that has come least far, or that does not beat any more.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from training.cluster.pulse import Beat

SILENT_SECONDS = 10.0
"""Without a beat a process is suspended, cut off, or dead."""
QUIET_SECONDS = 60.0
"""Without progress of any rank before that is told; half of the allowed silence if that is less."""
SLOW_FACTOR = 1.5
"""Own work of a rank in a step, over the median of all ranks, from which on it counts as slow."""
SLOW_WINDOWS = 3
"""In a row, before a rank is told to be slow."""
_WINDOW_SECONDS = 10.0
_WINDOW_STEPS = 5
"""Of every rank, at least, in each window."""


@dataclass(slots=True)
class _Seen:
    beat: Beat
    at: float
    """When its count was first seen, on the driver's clock: those of machines differ."""


class Watchdog:
    """Follows the beats of one life of the worker group.

    Args:
        quiet_seconds: Without progress of any rank, until that is told.
    """

    def __init__(self, quiet_seconds: float = QUIET_SECONDS) -> None:
        self._quiet_seconds = quiet_seconds
        self._seen: dict[int, _Seen] = {}
        self._progress_at: float | None = None
        self._has_told_quiet = False
        self._window: tuple[float, dict[int, Beat]] | None = None
        self._slow_windows: dict[int, int] = {}

    def look(self, beats: Sequence[Beat], now: float) -> list[str]:
        """Take the newest beats, at ``now`` seconds of any clock; returns what is to be told."""
        if self._has_progress(beats):
            self._progress_at, self._has_told_quiet = now, False
        for beat in beats:
            seen = self._seen.get(beat.rank)
            if seen is None or seen.beat.count != beat.count:
                self._seen[beat.rank] = _Seen(beat, now)
        return [*self._quiet(now), *self._slow(now)]

    def missing(self, now: float) -> str:
        """Whom the others wait for, in words; empty when nothing tells."""
        silent = [seen for seen in self._seen.values() if now - seen.at > SILENT_SECONDS]
        if silent and len(silent) < len(self._seen):
            told = [
                f"{seen.beat.who}, silent for {now - seen.at:.0f} s, last seen {seen.beat.where}"
                for seen in silent
            ]
            return "; ".join(told)
        least = min((seen.beat.progress for seen in self._seen.values()), default=0)
        behind = [seen.beat for seen in self._seen.values() if seen.beat.progress == least]
        if len(behind) == len(self._seen):
            return ""
        return "; ".join(f"{beat.who}, {beat.where}" for beat in behind)

    @property
    def nodes(self) -> set[str]:
        """Ids of the nodes that have a rank."""
        return {seen.beat.node for seen in self._seen.values()}

    def _has_progress(self, beats: Sequence[Beat]) -> bool:
        # Back is progress too: after a rewind.
        return any(
            beat.rank not in self._seen or beat.progress != self._seen[beat.rank].beat.progress
            for beat in beats
        )

    def _quiet(self, now: float) -> list[str]:
        is_quiet = self._progress_at is not None and now - self._progress_at > self._quiet_seconds
        if not is_quiet or self._has_told_quiet:
            return []
        missing = self.missing(now)
        if not missing:
            return []
        self._has_told_quiet = True
        assert self._progress_at is not None
        return [f"no rank got on for {now - self._progress_at:.0f} s; all wait for {missing}"]

    def _slow(self, now: float) -> list[str]:
        """Judge a window of steps when it is long enough."""
        beats = {rank: seen.beat for rank, seen in self._seen.items()}
        if self._window is None or self._window[1].keys() != beats.keys():
            self._window = (now, beats)
            return []
        started, before = self._window
        steps = {rank: beats[rank].num_steps - before[rank].num_steps for rank in beats}
        if now - started < _WINDOW_SECONDS or min(steps.values(), default=0) < _WINDOW_STEPS:
            return []
        self._window = (now, beats)
        seconds = {
            rank: (beats[rank].busy_seconds - before[rank].busy_seconds) / steps[rank]
            for rank in beats
        }
        # Of two ranks the faster one: their mean would hide the other.
        median = statistics.median_low(seconds.values())
        told: list[str] = []
        for rank, own_seconds in seconds.items():
            is_slow = own_seconds > SLOW_FACTOR * median
            self._slow_windows[rank] = self._slow_windows.get(rank, 0) + 1 if is_slow else 0
            if self._slow_windows[rank] == SLOW_WINDOWS:
                told.append(
                    f"{beats[rank].who} is slower than the others: {own_seconds:.3g} s of own work "
                    f"in a step, and the median of {len(seconds)} ranks is {median:.3g} s; look at "
                    "that machine: other jobs, its temperature, its disk"
                )
        return told
