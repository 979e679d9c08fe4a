"""The live line: the speed of the last seconds of this start of the workers."""

from typing import Any

from training.metrics import ELAPSED_SECONDS, LIFE, LOSS, MFU, STEP, STEP_SECONDS
from training.speed import Speed, speed_of

TOKENS = 100


def rows(
    steps: range, *, seconds: float, life: int = 1, begin: float = 0.0
) -> list[dict[str, Any]]:
    """Steps of which half is spent on recording and saving."""
    return [
        {
            STEP: step,
            LIFE: life,
            ELAPSED_SECONDS: begin + seconds * (index + 1),
            STEP_SECONDS: seconds / 2,
            MFU: 0.5,
            LOSS: 3.0,
        }
        for index, step in enumerate(steps)
    ]


def test_the_speed_is_that_of_the_window_with_everything_between_the_steps() -> None:
    speed = Speed(TOKENS)
    speed.add(rows(range(1, 100), seconds=10))
    assert speed.tokens_per_second == 10
    speed.add(rows(range(100, 130), seconds=1, begin=990))
    assert speed.tokens_per_second == 100
    assert speed.tokens == 129 * TOKENS
    assert speed.note == "MFU 25%, loss 3.000"


def test_a_step_that_takes_longer_than_the_window_counts_alone() -> None:
    speed = Speed(TOKENS)
    speed.add(rows(range(1, 9), seconds=50))
    assert speed.tokens_per_second == 2


def test_a_start_of_the_workers_begins_anew_and_its_own_time_is_no_speed() -> None:
    speed = Speed(TOKENS)
    speed.add(rows(range(1, 20), seconds=1))
    # Half a minute passes until the first step of the next life; it goes back to step 15.
    speed.add(rows(range(15, 16), seconds=4, life=2, begin=30))
    assert speed.tokens_per_second == TOKENS / 2
    assert speed.tokens == 15 * TOKENS


def test_a_batch_that_was_passed_over_has_no_loss_to_show() -> None:
    speed = Speed(TOKENS)
    assert (speed.tokens_per_second, speed.tokens) == (0, 0)
    one = rows(range(1, 2), seconds=2)[0]
    speed.add([{name: value for name, value in one.items() if name != LOSS}])
    assert speed.note == "MFU 50%, batch passed over"


def test_rows_that_are_not_timed_tell_how_far_the_run_is_and_no_speed() -> None:
    speed = Speed(TOKENS)
    speed.add([{STEP: 7, LOSS: 2.5}])
    assert (speed.tokens_per_second, speed.tokens, speed.note) == (0, 700, "loss 2.500")


def test_the_mean_speed_is_that_of_the_last_life() -> None:
    both = [*rows(range(1, 50), seconds=1), *rows(range(50, 61), seconds=5, life=2)]
    assert speed_of(both, TOKENS) == TOKENS * 11 / (2.5 + 10 * 5)
    assert speed_of([], TOKENS) == 0
