"""A store that is away is waited for, so long and no longer."""

import logging
from collections.abc import Callable

import pytest

from storage.absence import is_store_away, when_reached
from storage.errors import AccessError, StoreFullError, UnavailableError


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.absence.RETRY_SECONDS", 0.01)


def answering_after(num_failures: int, error: Exception) -> Callable[[], int]:
    left = [num_failures]

    def ask() -> int:
        left[0] -= 1
        if left[0] >= 0:
            raise error
        return 7

    return ask


def test_a_store_that_comes_back_is_told_of_once_and_gives_its_answer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    ask = answering_after(3, UnavailableError("it does not answer"))
    assert when_reached(ask, "the reading of a shard", 30.0) == 7
    assert [record.message for record in caplog.records] == [
        "the reading of a shard waits up to 30 s for the store: it does not answer",
        "the store is back: the reading of a shard goes on",
    ]


def test_the_wait_is_bounded_and_no_other_failure_is_waited_out() -> None:
    with pytest.raises(UnavailableError, match="does not answer"):
        when_reached(answering_after(10**9, UnavailableError("it does not answer")), "x", 0.05)
    ask = answering_after(1, AccessError("the store refuses our credentials"))
    with pytest.raises(AccessError, match="refuses our credentials"):
        when_reached(ask, "x", 30.0)
    assert ask() == 7, "it was asked once"


def test_full_is_away_and_forbidden_is_not() -> None:
    assert is_store_away(UnavailableError(""))
    assert is_store_away(StoreFullError(""))
    assert is_store_away(OSError(28, "no space"))
    assert not is_store_away(AccessError(""))
    assert not is_store_away(OSError(5, "an error of the disk"))
