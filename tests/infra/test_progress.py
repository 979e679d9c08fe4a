import logging

import pytest

import infra.progress
from infra.progress import Progress, follow


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
        "train: 200 of 300 tokens (67%), loss 5.0, 5 tokens/s, 0:20 left",
        "train: 300 of 300 tokens (100%), 5 tokens/s, 0:00 left",
    ]


def test_without_a_total_there_is_a_rate_but_no_promise(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 0.0, 20.0])
    monkeypatch.setattr(infra.progress.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(logging.getLogger("infra"), "propagate", True)
    with caplog.at_level(logging.INFO, logger="infra.progress"):
        on_progress = follow("refresh")
        on_progress("documents", 1000, 0)
        on_progress("documents", 3000, 0)
    assert caplog.messages == ["refresh: 3,000 documents, 100 documents/s"]


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
