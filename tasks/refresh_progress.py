"""How far a refresh is: what it tells, and how that is shown on a terminal or in the log."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, Self

from infra.progress import Progress, ProgressLine, Rate, duration

logger = logging.getLogger(__name__)

_MOST_REASONS = 3
_TOLD_AFTER_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingProgress:
    """What a refresh has read so far, and what became of it. All numbers only grow."""

    documents: int
    """That were read, kept or dropped."""
    text_bytes: int
    """UTF-8 bytes of the texts of these documents."""
    bytes_done: int
    """Of the source files, as they lie there."""
    bytes_total: int
    """Of all source files to be read; 0 when nobody knows."""
    kept: int
    """Documents that no stage has dropped so far."""
    dropped: Mapping[str, int]
    """Documents by reason."""
    rejected: Mapping[str, int]
    """Lines, rows and files that gave no document, by reason."""


class RefreshProgress(Protocol):
    """Told how far a refresh is."""

    def reading(self, state: ReadingProgress) -> None:
        """What is read by now; called once a batch of documents."""
        ...

    def stage(self, what: str, done: int, total: int) -> None:
        """How much of another stage is done: ``done`` of ``total`` of ``what``, 0 when unknown."""
        ...


class UnseenProgress:
    """Shows nothing."""

    def reading(self, state: ReadingProgress) -> None:
        """Nothing."""

    def stage(self, what: str, done: int, total: int) -> None:
        """Nothing."""


class ShownProgress:
    """A line on a terminal, log lines elsewhere; nothing of what takes less than a second.

    Use it as a context manager. What was read in all is logged when reading is over, so that the
    flow run has it wherever the refresh was started.
    """

    def __init__(self) -> None:
        self._began_at = time.monotonic()
        self._documents, self._text_bytes, self._bytes = Rate(), Rate(), Rate()
        self._line = ProgressLine()
        self._last: ReadingProgress | None = None
        self._stage: tuple[str, Progress] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end_reading()
        self._end_stage()

    def reading(self, state: ReadingProgress) -> None:
        """Show the documents read, their rates, the time left and what was kept and dropped."""
        now, total = time.monotonic(), state.bytes_total
        self._last = state
        text = reading_line(
            state,
            documents_per_second=self._documents.at(now, state.documents),
            text_bytes_per_second=self._text_bytes.at(now, state.text_bytes),
            bytes_per_second=self._bytes.at(now, state.bytes_done),
        )
        share = state.bytes_done / total if total else None
        self._line.show(f"refresh: {text}", now, share=share)

    def stage(self, what: str, done: int, total: int) -> None:
        """Show ``done`` of ``total``."""
        self._end_reading()
        if self._stage is None or self._stage[0] != what:
            self._end_stage()
            self._stage = what, Progress("refresh", total, what)
        self._stage[1].update(done)
        self._began_at = time.monotonic()  # what comes before reading is no part of it

    def _end_reading(self) -> None:
        state, self._last = self._last, None
        self._line.close()
        seconds = time.monotonic() - self._began_at
        if state is not None and seconds >= _TOLD_AFTER_SECONDS:
            logger.info(f"refresh: {whole_reading(state, seconds)}")

    def _end_stage(self) -> None:
        if self._stage is not None:
            self._stage[1].close()
            self._stage = None


def reading_line(
    state: ReadingProgress,
    *,
    documents_per_second: float,
    text_bytes_per_second: float,
    bytes_per_second: float,
) -> str:
    """``41% of 5,200.0 MB, 2:31 left, 12,300 documents, 1,230 documents/s, 3.4 MB/s, kept ...``.

    What a narrow terminal must not cut off comes first. No time is promised without a rate.

    Args:
        state: What is read.
        documents_per_second: 0 when not known.
        text_bytes_per_second: Of the texts in them; 0 when not known.
        bytes_per_second: Of the source files; 0 when not known.
    """
    parts: list[str] = []
    if total := state.bytes_total:
        parts.append(f"{min(1.0, state.bytes_done / total):.0%} of {total / 1e6:,.1f} MB")
        if bytes_per_second > 0:
            left = max(total - state.bytes_done, 0) / bytes_per_second
            parts.append(f"{duration(left)} left")
    parts.append(f"{state.documents:,} documents")
    if documents_per_second > 0:
        parts.append(f"{documents_per_second:,.0f} documents/s")
        parts.append(f"{text_bytes_per_second / 1e6:,.1f} MB/s")
    return ", ".join([*parts, *_became(state)])


def whole_reading(state: ReadingProgress, seconds: float) -> str:
    """What was read in all within ``seconds``, at which rate, and what became of it."""
    parts = [
        f"{state.documents:,} documents read in {duration(seconds)} "
        f"({state.documents / seconds:,.0f}/s, {state.text_bytes / 1e6 / seconds:,.1f} MB/s)",
        *_became(state),
    ]
    return ", ".join(parts)


def told_reasons(counts: Mapping[str, int], most: int) -> str:
    """``too_short 800, duplicate 300, 2 more reasons``: the ``most`` most frequent first."""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    told = [f"{reason} {count:,}" for reason, count in ranked[:most]]
    more = len(ranked) - most
    told += [f"{more} more reason{'s' if more > 1 else ''}"] if more > 0 else []
    return ", ".join(told)


def _became(state: ReadingProgress) -> list[str]:
    """How many were kept, dropped and rejected, each with the most frequent reasons."""
    parts = [f"kept {state.kept:,}"]
    for what, counts in (("dropped", state.dropped), ("rejected", state.rejected)):
        if counts:
            parts.append(f"{what} {sum(counts.values()):,} ({told_reasons(counts, _MOST_REASONS)})")
    return parts
