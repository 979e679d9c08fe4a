"""Two halves of the items, by hash of the cluster: one selects a remedy, the other judges it.

A setting that was chosen because it looks good on some items looks better on them than it is. On
items of other clusters it looks as good as it is, so that a bound there keeps its promise. Pure.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, TypeVar

from tasks.judge.verdict import DocumentScore, SliceScores, TaskScores
from training.items.score import ItemScore

Half = Literal["select", "judge"]

_Scored = TypeVar("_Scored", DocumentScore, ItemScore)


def half_of(cluster: str) -> Half:
    """The half to which every item of ``cluster`` belongs, in all slices and for ever."""
    # Not the bare hash of the name, by which other parts of the platform split clusters too.
    digest = hashlib.sha256(f"halves of the suite/{cluster}".encode()).digest()
    return "select" if digest[0] % 2 == 0 else "judge"


def half_of_slices(slices: Sequence[SliceScores], half: Half) -> tuple[SliceScores, ...]:
    """``slices`` with the scores of one half.

    A slice that has no cluster in it stays, empty, so that it can not be shown to be kept: a
    domain that nobody can see must not become one that nobody asks for.
    """
    return tuple(
        replace(
            item,
            candidate=_kept(item.candidate, half),
            champion=None if item.champion is None else _kept(item.champion, half),
            unigram=None if item.unigram is None else _kept(item.unigram, half),
            earlier=tuple(
                replace(known, scores=_kept(known.scores, half)) for known in item.earlier
            ),
        )
        for item in slices
    )


def half_of_tasks(tasks: Sequence[TaskScores], half: Half) -> tuple[TaskScores, ...]:
    """``tasks`` with the answers to the items of one half."""
    return tuple(
        replace(
            task,
            candidate=_kept(task.candidate, half),
            champion=_kept(task.champion, half),
        )
        for task in tasks
    )


def _kept(scores: tuple[_Scored, ...], half: Half) -> tuple[_Scored, ...]:
    return tuple(score for score in scores if half_of(score.cluster) == half)
