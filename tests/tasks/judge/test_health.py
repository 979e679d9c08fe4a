import math
from dataclasses import replace

import pytest

from tasks.judge.health import Canary, CanarySlice, Health, Writing, repetition, writing_of

FLUENT = Writing(
    rep_2=0.05,
    rep_4=0.0,
    rep_8=0.0,
    looping_share=0.0,
    end_share=0.95,
    empty_share=0.0,
    mean_tokens=31.0,
)
LOOPING = replace(FLUENT, rep_2=0.97, rep_4=0.97, rep_8=0.95, looping_share=1.0)
ENDLESS = replace(FLUENT, end_share=0.0, mean_tokens=48.0)
MUTE = replace(FLUENT, rep_2=None, rep_4=None, rep_8=None, empty_share=1.0, mean_tokens=0.0)


def health(candidate: Writing, champion: Writing | None) -> Health:
    empty = 32 if candidate.empty_share == 1.0 else 0
    return Health(finite=True, probes=32, empty=empty, candidate=candidate, champion=champion)


@pytest.mark.parametrize(
    ("tokens", "length", "expected"),
    [
        ([1, 2, 1, 2, 1], 2, 1 - 2 / 4),
        ([1, 2, 3, 4], 2, 0.0),
        ([7, 7, 7, 7, 7], 4, 1 - 1 / 2),
        ([1, 2, 3], 4, None),
        ([], 2, None),
    ],
)
def test_repetition_is_counted_as_by_hand(
    tokens: list[int], length: int, expected: float | None
) -> None:
    assert repetition(tokens, length) == expected


def test_writing_is_counted_as_by_hand() -> None:
    found = writing_of([[1, 2, 3, 4, 5], [9] * 9, [], [1, 2]], [True, False, True, False])
    assert found.rep_2 == (0.0 + 7 / 8 + 0.0) / 3
    assert found.rep_4 == (0.0 + 5 / 6) / 2
    assert found.rep_8 == 1 / 2
    assert found.looping_share == 1 / 4
    assert (found.end_share, found.empty_share) == (1 / 2, 1 / 4)
    assert found.mean_tokens == 16 / 4


@pytest.mark.parametrize("writing", [FLUENT, LOOPING, ENDLESS, MUTE])
def test_a_model_beside_itself_has_no_problem(writing: Writing) -> None:
    assert health(writing, writing).problem == ""


def test_what_a_champion_never_did_and_the_candidate_always_does_is_a_failure() -> None:
    assert "repeats itself: 100% of its continuations" in health(LOOPING, FLUENT).problem
    assert "does not end its texts: 0%" in health(ENDLESS, FLUENT).problem
    assert "writes nothing: all 32" in health(MUTE, FLUENT).problem


def test_a_first_version_must_write_something() -> None:
    assert "writes nothing" in health(MUTE, None).problem
    assert health(LOOPING, None).problem == ""


def test_a_regression_that_is_not_gross_is_shown_and_not_judged() -> None:
    some = replace(FLUENT, looping_share=0.6, rep_4=0.5)
    assert health(some, FLUENT).problem == ""
    assert health(LOOPING, replace(FLUENT, looping_share=0.4)).problem == ""


def canary(*ratios: float | None) -> Canary:
    return Canary(
        max_perplexity_ratio=100.0,
        passages=2 * len(ratios),
        slices=tuple(
            CanarySlice(
                slice=f"Dom{number}@s",
                targets=256,
                candidate_nats_per_token=None if ratio is None else 2.0 + math.log(ratio),
                champion_nats_per_token=2.0,
                perplexity_ratio=ratio,
            )
            for number, ratio in enumerate(ratios)
        ),
    )


def test_one_slice_that_explodes_is_named_however_good_the_others_are() -> None:
    problem = canary(0.5, 0.5, 0.5, 1000.0, 0.5).problem
    assert "collapsed on Dom3@s: 8.91 nats per token, 1,000 times" in problem
    assert canary(0.5, 1.0, 99.0).problem == ""


def test_who_learned_the_new_text_has_not_collapsed() -> None:
    assert replace(canary(1000.0), new_change=-0.01).problem == ""
    assert replace(canary(1000.0), new_change=0.0).problem != ""
    # A loss that is no number is, whatever was learned.
    assert replace(canary(None), new_change=-1.0).problem != ""


def test_the_worst_of_several_is_named() -> None:
    assert "on Dom1@s, and 1 more" in canary(200.0, 300.0, 1.0).problem


def test_a_loss_that_is_no_number_is_a_failure() -> None:
    assert canary(1.0, None).problem == "the candidate's loss on Dom1@s is not a finite number"
    assert Health(finite=False, canary=canary(1.0, None)).problem == canary(1.0, None).problem


def test_a_first_version_has_nothing_to_collapse_from() -> None:
    first = replace(canary(2.0).slices[0], champion_nats_per_token=None, perplexity_ratio=None)
    assert replace(canary(2.0), slices=(first,)).problem == ""
