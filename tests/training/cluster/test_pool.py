"""What is handed out to workers, without any; with workers see test_scoring and the refresh's."""

import pickle

import pytest

from tasks.staff import Staff
from training.cluster.pool import (
    Pool,
    _Work,  # pyright: ignore[reportPrivateUsage]
)

_POOL = Pool(what="trying", num_workers=1, address=None, max_failures=0, wait_seconds=1)


def _numbers(work: _Work) -> list[int]:
    return [given.number for given in work.new()]


def test_no_item_is_far_ahead_of_one_that_is_long_in_coming() -> None:
    taken: list[int] = []

    def items() -> list[tuple[int, str]]:
        return [(number, f"item {number}") for number in range(10)]

    work = _Work((taken.append(n) or (n, item) for n, item in items()), 4)
    assert _numbers(work) == [0, 1, 2, 3]
    for done in (1, 2, 3):
        del work.given[done]
    # All but the first are done, and still nothing is taken: who wants them in order waits for it.
    assert _numbers(work) == []
    assert taken == [0, 1, 2, 3]
    del work.given[0]
    assert _numbers(work) == [4, 5, 6, 7]
    assert pickle.loads(work.given[5]) == "item 5"


def test_what_is_not_done_is_more_until_the_last_item() -> None:
    work = _Work(enumerate(["one"]), 4)
    assert work.has_more()
    assert _numbers(work) == []  # has_more had to take it to know
    assert list(work.given) == [0]
    work.given.clear()
    assert not work.has_more()


def test_results_come_in_the_order_of_their_items(monkeypatch: pytest.MonkeyPatch) -> None:
    def in_any_order(make: object, items: object, pool: object) -> list[tuple[int, str]]:
        return [(2, "c"), (0, "a"), (1, "b"), (4, "e"), (3, "d")]

    monkeypatch.setattr("training.cluster.pool.map_on_ray", in_any_order)
    assert list(Staff(_POOL).apply(lambda: str, range(5))) == ["a", "b", "c", "d", "e"]
