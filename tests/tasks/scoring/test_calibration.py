import numpy as np
import pytest

from tasks.scoring.calibration import calibration_of, token_change_of


def test_the_error_made_by_hand_is_exact() -> None:
    # Bin 5: sure 0.5, right 1 of 2. Bin 9: sure 0.9375, right 1 of 4.
    found = calibration_of(
        [0.5, 0.5, 0.9375, 0.9375, 0.9375, 0.9375], [True, False, True, False, False, False]
    )
    assert found is not None
    assert found.expected_error == (2 * 0.0 + 4 * 0.6875) / 6
    assert [(b.targets, b.confidence, b.accuracy) for b in found.bins] == [
        (2, 0.5, 0.5),
        (4, 0.9375, 0.25),
    ]
    assert (found.targets, found.accuracy) == (6, 2 / 6)


def test_a_model_that_is_as_sure_as_it_is_right_has_next_to_no_error() -> None:
    rng = np.random.default_rng(0)
    sure = rng.uniform(0, 1, 200_000)
    right = rng.uniform(0, 1, sure.size) < sure
    found = calibration_of(sure.tolist(), right.tolist())
    assert found is not None
    # Of 20,000 a bin, the accuracy has a standard error of at most 0.0036.
    assert found.expected_error < 0.004


def test_certainty_is_in_the_last_bin() -> None:
    found = calibration_of([1.0, 0.95], [True, True])
    assert found is not None
    assert [b.targets for b in found.bins] == [2]


def test_without_a_target_there_is_no_calibration() -> None:
    assert calibration_of([], []) is None
    assert token_change_of(np.zeros(0), np.zeros(0)) is None


def test_a_mean_that_falls_hides_no_majority_that_rises() -> None:
    champion = np.full(100, 2.0)
    candidate = champion + np.where(np.arange(100) < 60, 0.25, -1.0)
    found = token_change_of(candidate, champion)
    assert found is not None
    assert found.mean == pytest.approx(-0.25)
    assert (found.median, found.worse_share, found.better_share) == (0.25, 0.6, 0.4)


def test_a_model_against_itself_moved_no_token() -> None:
    nats = np.random.default_rng(1).exponential(2.0, 500)
    found = token_change_of(nats, nats)
    assert found is not None
    assert (found.mean, found.median, found.worse_share, found.better_share) == (0, 0, 0, 0)
