import logging
from collections.abc import Iterator

import pytest

import tasks.refresh_progress
from tasks.refresh_progress import ReadingProgress, ShownProgress, reading_line

_DROPPED = {"duplicate": 4, "too_short": 20, "contaminated": 1, "gopher_quality:stop_words": 4}


def _state(documents: int, bytes_done: int, *, bytes_total: int = 10_000_000) -> ReadingProgress:
    return ReadingProgress(
        documents=documents,
        text_bytes=1000 * documents,
        bytes_done=bytes_done,
        bytes_total=bytes_total,
        kept=documents - 29,
        dropped=_DROPPED,
        rejected={"malformed_json": 3},
    )


class _Clock:
    """Seconds that pass only when told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    clock = _Clock()
    monkeypatch.setattr(tasks.refresh_progress.time, "monotonic", clock)
    return clock


@pytest.fixture(autouse=True)
def heard(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for package in ("infra", "tasks"):
        monkeypatch.setattr(logging.getLogger(package), "propagate", True)
    with caplog.at_level(logging.INFO):
        yield


def test_a_line_tells_rates_the_time_left_and_what_was_dropped_most(
    clock: _Clock, caplog: pytest.LogCaptureFixture
) -> None:
    progress = ShownProgress()
    progress.reading(_state(1_000, 1_000_000))
    clock.now = 10.0
    progress.reading(_state(21_000, 3_000_000))
    assert caplog.messages == [
        "refresh: 30% of 10.0 MB, 0:35 left, 21,000 documents, 2,000 documents/s, 2.0 MB/s, "
        "kept 20,971, dropped 29 (too_short 20, duplicate 4, gopher_quality:stop_words 4, "
        "1 more reason), rejected 3 (malformed_json 3)"
    ]


def test_where_nobody_knows_how_much_there_is_no_time_is_promised() -> None:
    line = reading_line(
        _state(100, 5, bytes_total=0),
        documents_per_second=10.0,
        text_bytes_per_second=2e6,
        bytes_per_second=1.0,
    )
    assert line.startswith("100 documents, 10 documents/s, 2.0 MB/s, kept 71, dropped 29 (")


@pytest.mark.parametrize("is_terminal", [False, True])
def test_what_was_read_in_all_is_logged_once_reading_is_over_on_a_terminal_too(
    is_terminal: bool,
    clock: _Clock,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: is_terminal)
    with ShownProgress() as progress:
        progress.stage("earlier snapshots to index", 0, 1)
        clock.now = 100.0
        progress.stage("earlier snapshots to index", 1, 1)
        clock.now = 150.0
        progress.reading(_state(1_000, 10_000_000))
        progress.stage("domains", 1, 2)
        progress.stage("domains", 2, 2)
    whole = [message for message in caplog.messages if "documents read in" in message]
    assert whole == [
        "refresh: 1,000 documents read in 0:50 (20/s, 0.0 MB/s), kept 971, dropped 29 "
        "(too_short 20, duplicate 4, gopher_quality:stop_words 4, 1 more reason), "
        "rejected 3 (malformed_json 3)"
    ]
    assert ("100% of 10.0 MB" in capsys.readouterr().err) == is_terminal


def test_a_refresh_of_less_than_a_second_shows_nothing(
    clock: _Clock, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with ShownProgress() as progress:
        progress.reading(_state(1_000, 1_000_000))
        clock.now = 0.9
        progress.reading(_state(2_000, 10_000_000))
    assert caplog.messages == []
    assert capsys.readouterr().err == ""
