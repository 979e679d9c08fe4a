import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.judge.decide import CheckConfig, Health, VerdictReport, decide
from tasks.judge.task_rows import MAX_EXAMPLES, task_row
from tasks.judge.verdict import TaskRow, TaskScores
from tests.benchmarks.judge_trials import Clusters, slice_of, sure_gain
from training.items.score import ItemScore

CONFIG = CheckConfig()
HEALTHY = Health(finite=True)


def answers(
    rights: list[bool], *, prefix: str = "said", cluster_size: int = 1
) -> tuple[ItemScore, ...]:
    return tuple(
        ItemScore(
            item=f"i{at:04}",
            cluster=f"c{at // cluster_size}",
            is_correct=is_right,
            answer=f"{prefix} {at}",
            nats=1.0 if is_right else 2.0 + at,
            targets=1,
        )
        for at, is_right in enumerate(rights)
    )


def task(before: list[bool], now: list[bool], *, cluster_size: int = 1) -> TaskScores:
    return TaskScores(
        task="facts",
        candidate=answers(now, prefix="now", cluster_size=cluster_size),
        champion=answers(before, prefix="before", cluster_size=cluster_size),
    )


def flipping(items: int, negative: int, positive: int) -> TaskScores:
    """Six in ten right before; then so many lost and so many won."""
    before = [at < 0.6 * items for at in range(items)]
    now = [
        (at >= negative) if is_right else (items - at <= positive)
        for at, is_right in enumerate(before)
    ]
    return task(before, now)


def row(scores: TaskScores, config: CheckConfig = CONFIG, champion: str | None = "1-a") -> TaskRow:
    return task_row(scores, config, champion=champion, resamples=400)


def judge(*tasks: TaskScores, config: CheckConfig = CONFIG) -> VerdictReport:
    targets = np.full(8, 512.0)
    old = slice_of(Clusters(3.0 * targets, 0.0 * targets, targets), "web", "old")
    return decide(
        [sure_gain(), old], config, health=HEALTHY, candidate="2-b", champion="1-a", tasks=tasks
    )


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_the_gain_is_positive_flips_minus_negative_flips(pairs: list[tuple[bool, bool]]) -> None:
    before, now = map(list, zip(*pairs, strict=True))
    found = row(task(before, now))
    assert found.difference == pytest.approx(
        (found.candidate_accuracy or 0.0) - (found.champion_accuracy or 0.0), abs=1e-12
    )
    flips = found.positive_flips - found.negative_flips
    assert found.difference == pytest.approx(flips / found.items, abs=1e-12)
    if sum(before):
        both = sum(was and is_now for was, is_now in pairs)
        assert found.backward_trust == pytest.approx(both / sum(before), abs=1e-12)
    else:
        assert found.backward_trust is None


def test_examples_are_what_was_lost_most_clearly() -> None:
    found = row(flipping(400, 9, 3))
    assert (found.negative_flips, found.positive_flips) == (9, 3)
    assert len(found.examples) == MAX_EXAMPLES
    assert (found.examples[0].item, found.examples[0].before, found.examples[0].now) == (
        "i0008",
        "before 8",
        "now 8",
    )


def test_equally_good_models_that_flip_both_ways_pass() -> None:
    report = judge(flipping(600, 24, 24))
    assert report.verdict == "PASS"
    assert "accuracy on the guarded task changed by no less than -" in report.reason


def test_a_fall_of_twice_the_margin_fails_and_is_named() -> None:
    report = judge(flipping(600, 66, 6))
    assert report.verdict == "FAIL"
    assert report.reason == (
        "Task facts: accuracy is 10.0% of the items below 1-a's, shown to be more than the allowed "
        "5.0%."
    )


def test_too_many_negative_flips_fail_although_accuracy_rose() -> None:
    """Two points better, six in a hundred wrong now, three allowed."""
    strict = replace(CONFIG, max_negative_flips=0.03)
    report = judge(flipping(1000, 60, 80), config=strict)
    assert report.verdict == "FAIL"
    assert report.reason == (
        "Task facts: 60 of 1000 items that 1-a had right are wrong now, shown to be more than the "
        "allowed 3.0%."
    )
    assert judge(flipping(1000, 60, 80)).verdict == "PASS"


def test_a_task_of_few_items_is_for_a_person() -> None:
    report = judge(flipping(40, 1, 1))
    assert report.verdict == "AMBIGUOUS"
    assert report.reason.startswith("Task facts: accuracy may be up to ")
    assert report.reason.endswith("% could be seen).")


def test_an_unguarded_task_is_shown_and_decides_nothing() -> None:
    unguarded = replace(flipping(600, 200, 0), is_guarded=False, why_unguarded="at chance level")
    report = judge(unguarded)
    assert report.verdict == "PASS"
    (found,) = report.task_rows
    assert (found.margin, found.p_violated, found.violated) == (None, None, False)
    assert found.why_unguarded == "at chance level"
    assert found.lower_bound is not None


def test_without_a_champion_no_task_is_tested() -> None:
    assert row(flipping(600, 200, 0), champion=None).margin is None


def test_a_guarded_task_without_items_is_not_passed() -> None:
    report = judge(TaskScores(task="facts", candidate=(), champion=()))
    assert report.verdict == "AMBIGUOUS"
    assert "0 items in 0 clusters are too few" in report.reason


def test_the_same_answers_with_the_same_probabilities_are_exactly_equal() -> None:
    same = answers([at % 3 > 0 for at in range(12)])
    found = row(TaskScores(task="facts", candidate=same, champion=same))
    assert (found.lower_bound, found.difference, found.upper_bound) == (0.0, 0.0, 0.0)
    assert found.negative_flips_upper == 0.0
    assert found.passed


def test_tasks_join_the_correction_of_the_losses() -> None:
    alone = judge(flipping(600, 52, 6)).task_rows[0]
    names = [replace(flipping(600, 20, 20), task=f"t{at}") for at in range(9)]
    (together,) = [
        found for found in judge(flipping(600, 52, 6), *names).task_rows if found.task == "facts"
    ]
    assert alone.p_violated is not None
    assert together.p_violated == pytest.approx(min(1.0, alone.p_violated * 22 / 4))


@settings(max_examples=20, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_verdict_does_not_depend_on_the_order_of_items_or_tasks(shuffle: random.Random) -> None:
    tasks = [flipping(200, 9, 4), replace(flipping(90, 3, 2), task="grammar")]
    mixed = [
        replace(
            scores,
            candidate=tuple(shuffle.sample(scores.candidate, len(scores.candidate))),
            champion=tuple(shuffle.sample(scores.champion, len(scores.champion))),
        )
        for scores in shuffle.sample(tasks, 2)
    ]
    assert judge(*mixed) == judge(*tasks)


def test_other_items_are_refused() -> None:
    scores = flipping(30, 1, 1)
    with pytest.raises(ValueError, match="not asked the same items, 1 differ, first 'i0029'"):
        row(replace(scores, champion=scores.champion[:-1]))


def test_an_item_that_was_answered_twice_is_refused() -> None:
    scores = flipping(30, 1, 1)
    with pytest.raises(ValueError, match="31 answers to 30 different items"):
        row(replace(scores, candidate=(*scores.candidate, scores.candidate[0])))
