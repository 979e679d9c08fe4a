"""Two halves of the items, by hash of the cluster: one selects a remedy, the other judges it.

A setting that was chosen because it looks good on some items looks better on them than it is. On
items of other clusters it looks as good as it is, so that a bound there keeps its promise. An old
domain of few clusters selects nothing, for half of them could bound nothing. Pure.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from tasks.judge.verdict import DocumentScore, SliceScores, TaskScores
from training.items.score import ItemScore

Half = Literal["select", "judge"]

FEW_CLUSTERS = 20
"""An old domain of fewer judges as a whole, beside a larger one that selects. By chance one half
of it would have too few to bound a loss, and as only a publication adds clusters to a domain, no
remedy could ever help it out. Of 20, a half has fewer than four once in a thousand times."""


def half_of(cluster: str) -> Half:
    """The half to which a cluster is drawn, in all slices and for ever."""
    # Not the bare hash of the name, by which other parts of the platform split clusters too.
    digest = hashlib.sha256(f"halves of the suite/{cluster}".encode()).digest()
    return "select" if digest[0] % 2 == 0 else "judge"


def selecting_clusters(slices: Sequence[SliceScores]) -> frozenset[str]:
    """Those whose items select; all others judge. Depends on no score.

    A cluster is on one side in all slices. A domain that has just become old, and is still small,
    judges with clusters that may have selected the version in use; that version looks better on
    them than it is, so that nothing passes for it.
    """
    new: set[str] = set()
    old: dict[str, set[str]] = {}
    for item in slices:
        known = new if item.role == "new" else old.setdefault(item.domain, set())
        known.update(score.cluster for score in item.candidate)
    large = [known for known in old.values() if len(known) >= FEW_CLUSTERS]
    # Where all are small, one that chooses without a look at any old text would choose blindly.
    chosen = (new, *(large or old.values()))
    return frozenset(name for known in chosen for name in known if half_of(name) == "select")


def half_of_slices(slices: Sequence[SliceScores], half: Half) -> tuple[SliceScores, ...]:
    """``slices`` with the scores of one half; all of a verdict, for they are divided together.

    A slice that has no cluster in it stays, empty, so that it can not be shown to be kept: a
    domain that nobody can see must not become one that nobody asks for.
    """
    selecting = selecting_clusters(slices)

    def kept(scores: tuple[DocumentScore, ...]) -> tuple[DocumentScore, ...]:
        return tuple(row for row in scores if (row.cluster in selecting) == (half == "select"))

    return tuple(
        replace(
            item,
            candidate=kept(item.candidate),
            champion=None if item.champion is None else kept(item.champion),
            unigram=None if item.unigram is None else kept(item.unigram),
            earlier=tuple(replace(known, scores=kept(known.scores)) for known in item.earlier),
        )
        for item in slices
    )


def half_of_tasks(tasks: Sequence[TaskScores], half: Half) -> tuple[TaskScores, ...]:
    """``tasks`` with the answers to the items of one half."""
    return tuple(
        replace(
            task,
            candidate=_answers(task.candidate, half),
            champion=_answers(task.champion, half),
        )
        for task in tasks
    )


def _answers(scores: tuple[ItemScore, ...], half: Half) -> tuple[ItemScore, ...]:
    return tuple(score for score in scores if half_of(score.cluster) == half)
