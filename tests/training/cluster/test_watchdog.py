"""Who holds the others up, and who is slow, is named with its machine."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from training.cluster.pulse import PHASES, Beat
from training.cluster.watchdog import SILENT_SECONDS, SLOW_FACTOR, SLOW_WINDOWS, Watchdog

WAITING, BUSY, EXCHANGE, BETWEEN = range(len(PHASES))


def beat(rank: int, *, step: int = 17, phase: int = WAITING, count: int = 1) -> Beat:
    return Beat(
        rank=rank,
        host=f"machine-{rank}",
        node=f"node-{rank}",
        pid=100 + rank,
        count=count,
        progress=step * len(PHASES) + phase,
        num_steps=0,
        busy_seconds=0.0,
    )


@pytest.mark.parametrize(
    ("waiting", "late", "where"),
    [
        ((18, WAITING), (17, BETWEEN), "in step 17, between two steps (update, checkpoint, data)"),
        ((18, EXCHANGE), (18, BUSY), "in step 18, in the forward and backward passes"),
    ],
)
def test_a_rank_that_all_others_wait_for_is_named_once_with_machine_and_place(
    waiting: tuple[int, int], late: tuple[int, int], where: str
) -> None:
    watchdog = Watchdog(quiet_seconds=60)
    told: list[str] = []
    for second in range(200):
        beats = [beat(rank, step=waiting[0], phase=waiting[1], count=second) for rank in (0, 1, 3)]
        beats.append(beat(2, step=late[0], phase=late[1], count=second))
        told += watchdog.look(beats, now=float(second))
    who = f"rank 2 on machine-2 (process 102), {where}"
    assert told == [f"no rank got on for 61 s; all wait for {who}"]
    assert watchdog.missing(200.0) == who


def test_a_process_that_does_not_beat_any_more_is_missing_wherever_it_was() -> None:
    watchdog = Watchdog()
    watchdog.look([beat(0), beat(1)], now=0.0)
    watchdog.look([beat(0, count=2), beat(1)], now=SILENT_SECONDS + 5)
    assert watchdog.missing(SILENT_SECONDS + 5) == (
        "rank 1 on machine-1 (process 101), silent for 15 s, last seen in step 17, waiting for the "
        "others before the forward pass"
    )


def test_nobody_is_named_while_all_are_alike_or_nobody_was_seen() -> None:
    watchdog = Watchdog()
    assert watchdog.missing(0.0) == ""
    assert watchdog.look([], now=0.0) == []
    watchdog.look([beat(0), beat(1)], now=0.0)
    # All have ended: the driver looks for the last time.
    assert watchdog.missing(SILENT_SECONDS + 5) == ""
    assert watchdog.nodes == {"node-0", "node-1"}


def after(step: int, seconds: Sequence[float]) -> list[Beat]:
    """Beats after so many steps, with each rank's own seconds in one of them."""
    return [
        replace(beat(rank, step=step, count=step), num_steps=step, busy_seconds=step * own_seconds)
        for rank, own_seconds in enumerate(seconds)
    ]


def sentences(seconds: Sequence[float], steps: int, *, step_seconds: float = 2.0) -> list[str]:
    watchdog = Watchdog()
    return [
        line
        for step in range(steps)
        for line in watchdog.look(after(step, seconds), now=step * step_seconds)
    ]


@pytest.mark.parametrize("seconds", [[1.0, 1.0, 1.6, 1.1], [1.0, 1.6]])
def test_a_rank_that_stays_slower_than_the_median_is_named_once(seconds: list[float]) -> None:
    slow = seconds.index(1.6)
    (told,) = sentences(seconds, 100)
    assert told.startswith(
        f"rank {slow} on machine-{slow} (process 10{slow}) is slower than the others: 1.6 s of own "
        f"work in a step, and the median of {len(seconds)} ranks is 1 s; look at that machine"
    )


def test_a_rank_that_is_a_little_slower_or_slow_for_a_moment_is_left_alone() -> None:
    assert sentences([1.0, SLOW_FACTOR - 0.01, 1.0], 100) == []
    # One step short of the last window that it takes.
    assert sentences([1.0, 9.0], SLOW_WINDOWS * 5) == []
    assert len(sentences([1.0, 9.0], SLOW_WINDOWS * 5 + 1)) == 1
