"""The rows of a verdict that rest on right and wrong answers: accuracies, and what has flipped.

A mean accuracy hides what users meet: an item that was right and is wrong now, a negative flip. The
difference of two accuracies is the positive flips minus the negative ones (MUSCLE).
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from tasks.judge.proportions import (
    ClusterAnswers,
    accuracy_difference,
    negative_flip_share,
)
from tasks.judge.verdict import CheckConfig, Flip, TaskRow, TaskScores
from training.items.score import ItemScore

MAX_EXAMPLES = 5
"""Negative flips that are shown."""

_Answers = tuple[ItemScore, ItemScore]
"""The candidate's and the other model's, to one item."""


def task_row(
    task: TaskScores, config: CheckConfig, *, champion: str | None, resamples: int
) -> TaskRow:
    """The row of one task, with p-values of violations that are not corrected yet.

    Args:
        task: Both models' answers.
        config: Margins and level.
        champion: Version compared with; without one, nothing is tested.
        resamples: Of the bounds by cluster.

    Raises:
        ValueError: The models were not asked the same items, or an item was asked twice.
    """
    answers = _matched(task)
    clusters = _clusters(answers)
    is_tested = task.is_guarded and champion is not None
    before = sum(theirs.is_correct for _, theirs in answers)
    now = sum(ours.is_correct for ours, _ in answers)
    flips = [pair for pair in answers if pair[1].is_correct and not pair[0].is_correct]
    shown = TaskRow(
        task=task.task,
        against=champion or "",
        items=len(answers),
        clusters=len(clusters),
        candidate_accuracy=now / len(answers) if answers else None,
        champion_accuracy=before / len(answers) if answers else None,
        difference=None,
        margin=config.max_accuracy_loss if is_tested else None,
        max_negative_flips=config.max_negative_flips if is_tested else None,
        negative_flips=len(flips),
        positive_flips=now - before + len(flips),
        backward_trust=1 - len(flips) / before if before else None,
        examples=_examples(flips),
        why_unguarded=task.why_unguarded,
    )
    return _bounded(shown, answers, clusters, config.alpha, resamples) if answers else shown


def _bounded(
    row: TaskRow,
    answers: Sequence[_Answers],
    clusters: dict[str, ClusterAnswers],
    alpha: float,
    resamples: int,
) -> TaskRow:
    is_same = all(
        (ours.is_correct, ours.answer, ours.nats) == (theirs.is_correct, theirs.answer, theirs.nats)
        for ours, theirs in answers
    )
    change = accuracy_difference(clusters, is_same_model=is_same, resamples=resamples)
    flips = negative_flip_share(clusters, is_same_model=is_same, resamples=resamples)
    lower, margin, limit = change.lower(alpha), row.margin, row.max_negative_flips
    return replace(
        row,
        difference=change.estimate,
        lower_bound=lower,
        upper_bound=change.upper(alpha),
        p_met=None if margin is None else change.p_above(-margin),
        p_violated=None if margin is None else change.p_below(-margin),
        smallest_detectable_effect=change.detectable_above(alpha),
        negative_flips_upper=flips.upper(alpha),
        p_flips_violated=None if limit is None else flips.p_above(limit),
        passed=margin is not None and lower is not None and lower >= -margin,
    )


def _matched(task: TaskScores) -> list[_Answers]:
    """Both models' answers, by item."""
    ours, theirs = (_by_item(task.task, scores) for scores in (task.candidate, task.champion))
    if {name: score.cluster for name, score in ours.items()} != {
        name: score.cluster for name, score in theirs.items()
    }:
        different = sorted(set(ours) ^ set(theirs)) or sorted(
            name for name, score in ours.items() if score.cluster != theirs[name].cluster
        )
        raise ValueError(
            f"task {task.task}: the models were not asked the same items, {len(different)} differ, "
            f"first {different[0]!r}: ask both again on one suite"
        )
    return [(ours[name], theirs[name]) for name in sorted(ours)]


def _by_item(task: str, scores: Sequence[ItemScore]) -> Mapping[str, ItemScore]:
    found = {score.item: score for score in scores}
    if len(found) != len(scores):
        raise ValueError(
            f"task {task}: {len(scores)} answers to {len(found)} different items: an id must be "
            "unique in its task"
        )
    return found


def _clusters(answers: Sequence[_Answers]) -> dict[str, ClusterAnswers]:
    members: defaultdict[str, list[int]] = defaultdict(list)
    for ours, theirs in answers:
        members[ours.cluster].append(ours.is_correct - theirs.is_correct)
    return {
        name: ClusterAnswers(
            items=len(changes),
            negative_flips=changes.count(-1),
            positive_flips=changes.count(1),
        )
        for name, changes in members.items()
    }


def _examples(flips: Sequence[_Answers]) -> tuple[Flip, ...]:
    """Those first where the right answer lost most; ties by name."""
    worst = sorted(flips, key=lambda pair: (pair[1].nats - pair[0].nats, pair[0].item))
    return tuple(
        Flip(item=ours.item, before=theirs.answer, now=ours.answer)
        for ours, theirs in worst[:MAX_EXAMPLES]
    )
