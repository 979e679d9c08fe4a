"""What a run releases: which checkpoints, with which shares."""

import pytest

from training.config import Recipe
from training.identity import identity_fields
from training.release import Release, ReleaseConfig, describe_release, release_of


def steps_of(config: ReleaseConfig, *, num_steps: int, first_step: int = 0) -> tuple[int, ...]:
    release = release_of(config, num_steps=num_steps, global_batch_tokens=100)
    return release.steps_before(num_steps, first_step)


def test_the_last_checkpoints_are_as_far_apart_as_asked_and_end_with_the_last() -> None:
    config = ReleaseConfig(kind="lawa", checkpoints=4, every_tokens=250)

    assert steps_of(config, num_steps=20) == (14, 16, 18, 20)


def test_without_a_distance_they_lie_over_the_second_half() -> None:
    assert steps_of(ReleaseConfig(kind="ema"), num_steps=80) == (40, 50, 60, 70, 80)


def test_more_checkpoints_than_the_update_has_room_for_are_refused() -> None:
    with pytest.raises(ValueError, match=r"6, 2 steps apart, .* has 10 steps: lower"):
        steps_of(ReleaseConfig(kind="lawa", checkpoints=6, every_tokens=200), num_steps=10)
    assert len(steps_of(ReleaseConfig(kind="lawa", checkpoints=5, every_tokens=200), num_steps=10))


def test_an_update_that_was_taken_over_averages_its_own_checkpoints_only() -> None:
    config = ReleaseConfig(kind="lawa", checkpoints=4, every_tokens=250)

    assert steps_of(config, num_steps=20, first_step=16) == (18, 20)


def test_shares_are_those_of_the_running_average() -> None:
    release = Release(kind="ema", checkpoints=4, every_steps=1, decay=0.3)
    average = (1.0, 0.0, 0.0, 0.0)
    for newest in range(1, 4):
        one = [float(index == newest) for index in range(4)]
        average = tuple(0.3 * old + 0.7 * new for old, new in zip(average, one, strict=True))

    assert release.shares(4) == pytest.approx(average)
    assert sum(release.shares(4)) == pytest.approx(1)
    assert Release(kind="lawa").shares(5) == (0.2,) * 5


def test_the_plan_says_which_checkpoints_are_averaged() -> None:
    line = describe_release(Release(kind="ema", decay=0.2), (10, 20))

    assert line == (
        "release: the exponential average of the checkpoints of steps 10 (20.0%), 20 (80.0%); "
        "the trunk is not averaged"
    )


def test_a_release_other_than_the_last_is_part_of_the_identity_and_the_last_is_not() -> None:
    assert "release" not in identity_fields(Recipe())
    assert "release" in identity_fields(Recipe(release=ReleaseConfig(kind="lawa")))
