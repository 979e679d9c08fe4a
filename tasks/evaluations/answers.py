"""Have models answer the task items of the suite: in this process, or on the lineage's Ray.

A task is asked in parts of a fixed size. A part's answers are a function of the model and of its
items alone, on one kind of processor, so that neither the number of workers nor a crash changes a
bit; each is on record as soon as it is answered. Importing this module loads neither torch nor Ray.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import TYPE_CHECKING

from infra.progress import Progress
from storage.models import read_model_manifest, weights_hash
from storage.suite import SuiteTask
from tasks.evaluations.frozen import FrozenItem
from tasks.evaluations.item_record import (
    read_item_scores,
    read_part,
    write_item_scores,
    write_part,
)
from tasks.scoring.compute import Desk, num_parameters_of
from tasks.scoring.place import BATCHES_A_WORKER, LITTLE_FLOPS, Place, scoring_job
from training.items.item import Item
from training.items.score import ItemScore

if TYPE_CHECKING:
    from training.cluster.scoring import ScoringJob

PART_ITEMS = 64
"""Items that are asked together: enough that they share what they can, few enough that little is
lost in a crash. Another number rounds otherwise, so that what is on record in parts is not used."""
_CHARS_A_TOKEN = 4
"""Roughly, to tell whether it is worth to start Ray."""

Answers = tuple[ItemScore, ...]


def answers_on_record(
    desk: Desk,
    versions: Sequence[str],
    tasks: Sequence[SuiteTask],
    items: Mapping[str, Sequence[FrozenItem]],
    *,
    tokenizer: str,
    place: Place,
) -> dict[str, dict[str, Answers]]:
    """Each version's answers by task. Safe to retry: only what is missing is asked.

    Args:
        desk: Where models and records are.
        versions: Whose models are asked.
        tasks: Of the suite.
        items: Of each task, in the order of its file.
        tokenizer: Prefix of the tokenizer.
        place: Where models answer. Has no influence on what.

    Raises:
        NotFoundError: A model that is to be asked does not exist.
        CorruptError: A model or a record is damaged.
        TrainingError: Ray lost its workers too often, or has no room for one.
    """
    weights = {
        version: weights_hash(read_model_manifest(desk.store, desk.layout.model(version)))
        for version in versions
    }
    # Versions with equal weights are one model.
    by_weights = {weights[version]: version for version in reversed(versions)}
    found: dict[str, dict[str, Answers]] = {}
    work: list[_Missing] = []
    for of, version in by_weights.items():
        found[of] = {
            task.name: scores
            for task in tasks
            if (scores := read_item_scores(desk.store, desk.layout, of, task)) is not None
        }
        for task in tasks:
            if task.name not in found[of]:
                work += _missing(desk, version, of, task, items[task.name])
    if work:
        _ask(desk, work, tokenizer, place)
    for of in by_weights:
        for task in tasks:
            if task.name not in found[of]:
                found[of][task.name] = _joined(desk, of, task, items[task.name])
    return {version: found[weights[version]] for version in versions}


@dataclass(frozen=True, slots=True)
class _Missing:
    """A part of a task that a model has not answered."""

    version: str
    weights: str
    task: SuiteTask
    first: int
    items: tuple[Item, ...]

    @property
    def tokens(self) -> int:
        chars = sum(
            len(item.context) + sum(map(len, (*item.contexts, *item.choices)))
            for item in self.items
        )
        return chars // _CHARS_A_TOKEN


def _parts_of(items: Sequence[FrozenItem]) -> dict[int, tuple[Item, ...]]:
    """Items by the place of the first of each part."""
    return {
        first: tuple(frozen.item for frozen in items[first : first + PART_ITEMS])
        for first in range(0, len(items), PART_ITEMS)
    }


def _missing(
    desk: Desk, version: str, weights: str, task: SuiteTask, items: Sequence[FrozenItem]
) -> list[_Missing]:
    return [
        _Missing(version, weights, task, first, part)
        for first, part in _parts_of(items).items()
        if read_part(desk.store, desk.layout, weights, task, first, len(part)) is None
    ]


def _joined(desk: Desk, weights: str, task: SuiteTask, items: Sequence[FrozenItem]) -> Answers:
    """The parts on record as one; they are all there."""
    scores: list[ItemScore] = []
    for first, part in _parts_of(items).items():
        answered = read_part(desk.store, desk.layout, weights, task, first, len(part))
        assert answered is not None  # asked just now, and records are never removed
        scores += answered
    return write_item_scores(desk.store, desk.layout, weights, task, scores)


def _ask(desk: Desk, work: Sequence[_Missing], tokenizer: str, place: Place) -> None:
    versions = list(dict.fromkeys(part.version for part in work))
    parameters = {version: num_parameters_of(desk, version) for version in versions}
    flops = sum(2.0 * parameters[part.version] * part.tokens for part in work)
    total = sum(len(part.items) for part in work)
    with Progress(f"ask {', '.join(versions)}", total, "items") as progress:
        told = _Told(progress)
        if place.has_more and flops > LITTLE_FLOPS:
            _ask_on_ray(desk, work, tokenizer, place, told)
        else:
            for version in versions:
                own = [part for part in work if part.version == version]
                _ask_here(desk, own, tokenizer, place.num_threads, told)


class _Told:
    """Counts items that are answered, for people."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._done = progress, 0
        progress.update(0)

    def add(self, items: int) -> None:
        self._done += items
        self._progress.update(self._done)


def _ask_here(
    desk: Desk, work: Sequence[_Missing], tokenizer: str, num_threads: int, told: _Told
) -> None:
    """All of one version."""
    from training.items.score_parts import score_parts  # noqa: PLC0415  torch
    from training.tokenizer import fetch_tokenizer  # noqa: PLC0415  imports tokenizers

    def take(number: int, answers: Answers) -> None:
        _record(desk, work[number], answers)
        told.add(len(answers))

    score_parts(
        desk.model(work[0].version),
        fetch_tokenizer(desk.store, tokenizer, desk.work_dir / "tokenizer"),
        [part.items for part in work],
        num_threads=num_threads,
        on_part=take,
    )


def _ask_on_ray(
    desk: Desk, work: Sequence[_Missing], tokenizer: str, place: Place, told: _Told
) -> None:
    from training.cluster.scoring import score_on_ray  # noqa: PLC0415  only where Ray is used

    batches = _batches(work, place.most_workers)

    def take(number: int, found: Sequence[Answers]) -> None:
        for part, answers in zip(batches[number], found, strict=True):
            _record(desk, part, answers)
            told.add(len(answers))

    score_on_ray(_job(desk, batches, tokenizer, place), place.pool("scoring"), take)


def _batches(work: Sequence[_Missing], workers: int) -> list[list[_Missing]]:
    """Parts of one model each, in their order, so many that no worker waits long for another."""
    size = max(1, math.ceil(len(work) / (BATCHES_A_WORKER * workers)))
    batches: list[list[_Missing]] = []
    for part in work:
        if not batches or len(batches[-1]) == size or batches[-1][0].version != part.version:
            batches.append([])
        batches[-1].append(part)
    return batches


def _job(
    desk: Desk, batches: Sequence[Sequence[_Missing]], tokenizer: str, place: Place
) -> "ScoringJob":
    from training.cluster.scoring import ScoringBatch  # noqa: PLC0415  only where Ray is used

    numbers = count()
    asked = [
        ScoringBatch(
            model=desk.layout.model(batch[0].version), parts=tuple(islice(numbers, len(batch)))
        )
        for batch in batches
    ]
    return scoring_job(
        place,
        desk.work_dir,
        asked,
        parts=tuple(part.items for batch in batches for part in batch),
        tokenizer=tokenizer,
    )


def _record(desk: Desk, part: _Missing, answers: Answers) -> None:
    write_part(desk.store, desk.layout, part.weights, part.task, part.first, answers)
