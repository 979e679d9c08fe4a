from typing import Any

import numpy as np
import pytest

from tasks.scoring.stability import StabilityGap, stability_gaps
from training.config import Mixture, Stream

BATCH = 1000


def mixture(*streams: tuple[str, bool]) -> Mixture:
    return Mixture(
        streams=tuple(
            Stream(
                snapshot="s",
                domain=domain,
                prefix="p",
                parts=1,
                samples=9,
                available=9,
                is_replay=is_replay,
            )
            for domain, is_replay in streams
        ),
        seed=0,
    )


OLD = mixture(("old", True), ("new", False))


def rows(losses: list[float], domain: str = "old") -> list[dict[str, Any]]:
    return [
        {"step": n, "tokens_seen": n * BATCH, f"train/loss/{domain}": loss}
        for n, loss in enumerate(losses, start=1)
    ]


def only(losses: list[float]) -> StabilityGap:
    (found,) = stability_gaps(rows(losses), OLD)
    return found


def test_a_rise_made_by_hand_has_its_depth_and_its_way_back() -> None:
    # Forty steps, a block each: steady, up to 3.0 at step 10, back at step 30.
    losses = [2.0] * 5 + [2.5] * 4 + [3.0] + [2.5] * 19 + [2.0] * 11
    found = only(losses)
    assert (found.start, found.peak, found.depth, found.end) == (2.0, 3.0, 1.0, 2.0)
    assert found.noise == 0.0
    assert (found.peak_tokens, found.recovery_tokens) == (10 * BATCH, 30 * BATCH)


def test_a_loss_that_never_comes_back_has_no_recovery() -> None:
    found = only([2.0] * 10 + [3.0] * 30)
    assert (found.depth, found.recovery_tokens) == (1.0, None)


def test_a_loss_that_falls_has_no_gap() -> None:
    found = only([3.0 - 0.01 * n for n in range(80)])
    assert (found.depth, found.recovery_tokens) == (0.0, 0)


def test_noise_alone_is_no_gap() -> None:
    rng = np.random.default_rng(3)
    gaps = [only((2.5 + 0.3 * rng.normal(size=400)).tolist()) for _ in range(200)]
    # The first block lies low by chance now and then, and the highest of forty lies high.
    assert sum(gap.depth > 0 for gap in gaps) <= 16
    assert all(gap.noise == pytest.approx(0.3 * np.sqrt(2 / 10), rel=0.25) for gap in gaps)


def test_a_planted_gap_is_found_in_noise() -> None:
    rng = np.random.default_rng(4)
    bump = np.exp(-(((np.arange(400) - 60) / 25) ** 2))
    found = only((2.5 + bump + 0.2 * rng.normal(size=400)).tolist())
    # Four standard errors of a difference of blocks of ten, and what a block flattens.
    assert found.depth == pytest.approx(1.0, abs=0.4)
    assert found.peak_tokens == pytest.approx(60 * BATCH, abs=15 * BATCH)
    assert found.recovery_tokens is not None
    assert 70 * BATCH < found.recovery_tokens < 130 * BATCH


def test_a_domain_that_is_new_as_well_says_nothing_of_the_old() -> None:
    both = mixture(("old", True), ("old", False))
    assert stability_gaps(rows([2.0] * 40), both) == ()


def test_too_few_steps_say_nothing() -> None:
    assert stability_gaps(rows([2.0, 3.0, 2.0, 2.0]), OLD) == ()
    assert stability_gaps([], OLD) == ()


def test_steps_without_a_target_of_the_domain_are_passed_over() -> None:
    losses = [2.0] * 10 + [3.0] * 30
    with_holes = [
        row for pair in zip(rows(losses), rows([9.0] * 40, "new"), strict=True) for row in pair
    ]
    assert stability_gaps(with_holes, OLD) == stability_gaps(rows(losses), OLD)
