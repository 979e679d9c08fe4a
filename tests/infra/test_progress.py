import logging

import pytest

import infra.progress
from infra.progress import Progress, duration, progress_line


def test_lines_tell_share_rate_and_time_left(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 0.0, 20.0, 40.0])
    monkeypatch.setattr(infra.progress.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(logging.getLogger("infra"), "propagate", True)
    with (
        caplog.at_level(logging.INFO, logger="infra.progress"),
        Progress("train", 300, "tokens") as bar,
    ):
        bar.update(100)
        bar.update(200, "loss 5.0")
        bar.update(300)
    assert caplog.messages == [
        "train: 200 of 300 tokens (67%), 5 tokens/s, loss 5.0, 0:20 left",
        "train: 300 of 300 tokens (100%), 5 tokens/s, 0:00 left",
    ]


def test_without_a_total_there_is_a_rate_but_no_promise(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 0.0, 20.0])
    monkeypatch.setattr(infra.progress.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(logging.getLogger("infra"), "propagate", True)
    with caplog.at_level(logging.INFO, logger="infra.progress"):
        bar = Progress("refresh", 0, "documents")
        bar.update(1000)
        bar.update(3000)
    assert caplog.messages == ["refresh: 3,000 documents, 100 documents/s"]


@pytest.mark.parametrize(
    ("columns", "shown"),
    [
        (80, "[==============              ] train: 50 of 100 tokens (50%), loss 5.0"),
        (60, "train: 50 of 100 tokens (50%), loss 5.0"),
        (30, "train: 50 of 100 tokens ..."),
    ],
)
def test_a_bar_never_breaks_into_two_lines_of_a_narrow_terminal(
    columns: int,
    shown: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter([0.0, 2.0])
    monkeypatch.setattr(infra.progress.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(infra.progress.sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(columns))
    with Progress("train", 100, "tokens") as bar:
        bar.update(50, "loss 5.0")
    line = capsys.readouterr().err
    assert line == f"\r\x1b[2K  {shown}\n"
    assert 2 + len(shown) < columns


@pytest.mark.parametrize("is_terminal", [False, True])
def test_what_takes_less_than_a_second_shows_no_progress(
    is_terminal: bool,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter([0.0, 0.4, 0.9])
    monkeypatch.setattr(infra.progress.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(infra.progress.sys.stderr, "isatty", lambda: is_terminal)
    monkeypatch.setattr(logging.getLogger("infra"), "propagate", True)
    with (
        caplog.at_level(logging.INFO, logger="infra.progress"),
        Progress("refresh", 2, "domains") as bar,
    ):
        bar.update(1)
        bar.update(2)
    assert caplog.messages == []
    assert capsys.readouterr().err == ""


def test_the_rate_is_that_of_the_last_twenty_seconds_and_not_of_all_time(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 0.0, 3600.0, 3610.0, 3620.0])
    monkeypatch.setattr(infra.progress.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(logging.getLogger("infra"), "propagate", True)
    with caplog.at_level(logging.INFO, logger="infra.progress"):
        bar = Progress("check", 1000, "tokens")
        bar.update(0)
        for done in (36, 136, 236):
            bar.update(done)
    assert caplog.messages[-1] == "check: 236 of 1,000 tokens (24%), 10 tokens/s, 1:16 left"


def test_what_begins_again_from_an_earlier_place_has_no_negative_rate(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 0.0, 20.0, 40.0])
    monkeypatch.setattr(infra.progress.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(logging.getLogger("infra"), "propagate", True)
    with caplog.at_level(logging.INFO, logger="infra.progress"):
        bar = Progress("check", 100, "tokens")
        bar.update(50)
        bar.update(20)
        bar.update(40)
    assert caplog.messages == [
        "check: 20 of 100 tokens (20%)",
        "check: 40 of 100 tokens (40%), 1 tokens/s, 1:00 left",
    ]


def test_tokens_are_told_in_the_unit_of_their_total_and_long_times_in_hours() -> None:
    assert (
        progress_line(12_345_678, 50_000_000, "tokens", rate=4310, note="MFU 31%, loss 3.214")
        == "12.3M of 50.0M tokens (25%), 4,310 tokens/s, MFU 31%, loss 3.214, 2:25 h left"
    )
    assert progress_line(300_000, 2 * 10**9, "tokens", rate=0) == "0.0B of 2.0B tokens (0%)"
    assert duration(3599.9) == "59:59"
    assert duration(7_800) == "2:10 h"
