"""Scores of task items on record: by model and content, so that no item is scored twice."""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from storage.errors import AlreadyExistsError, CorruptError, NotFoundError
from storage.layout import Layout
from storage.manifest import load, publish
from storage.objects import ObjectStore
from storage.suite import SuiteTask
from training.items.score import ItemScore


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredItemScores:
    """One model's scores of the items of one file, column by column."""

    weights: str
    """SHA-256 of the model's weights and configuration."""
    content: str
    """SHA-256 of the file of items."""
    items: tuple[str, ...]
    clusters: tuple[str, ...]
    is_correct: tuple[bool, ...]
    answers: tuple[str, ...]
    nats: tuple[float | None, ...]
    """None where the sum is not a finite number, which JSON cannot say."""
    targets: tuple[int, ...]


def read_item_scores(
    store: ObjectStore, layout: Layout, weights: str, task: SuiteTask
) -> tuple[ItemScore, ...] | None:
    """The scores on record, None without any.

    Raises:
        CorruptError: The record is damaged, or of other items.
    """
    key = layout.task_scores(weights, task.file.name)
    try:
        stored = load(store, key, StoredItemScores)
    except NotFoundError:
        return None
    columns = (stored.clusters, stored.is_correct, stored.answers, stored.nats, stored.targets)
    if (stored.weights, stored.content, len(stored.items)) != (
        weights,
        task.file.sha256,
        task.items,
    ) or {len(column) for column in columns} != {task.items}:
        raise CorruptError(
            f"{key} holds {len(stored.items)} scores of items {stored.content[:12]} by the model "
            f"{stored.weights[:12]}, expected {task.items} of {task.file.sha256[:12]} by "
            f"{weights[:12]}: delete it, it will be computed again"
        )
    rows = zip(stored.items, *columns, strict=True)
    return tuple(
        ItemScore(
            item=item,
            cluster=cluster,
            is_correct=is_correct,
            answer=answer,
            nats=math.nan if nats is None else nats,
            targets=targets,
        )
        for item, cluster, is_correct, answer, nats, targets in rows
    )


def write_item_scores(
    store: ObjectStore,
    layout: Layout,
    weights: str,
    task: SuiteTask,
    scores: Sequence[ItemScore],
) -> tuple[ItemScore, ...]:
    """Put scores on record and return those that are: of two who scored at once, the first's.

    Safe to retry.
    """
    stored = StoredItemScores(
        weights=weights,
        content=task.file.sha256,
        items=tuple(score.item for score in scores),
        clusters=tuple(score.cluster for score in scores),
        is_correct=tuple(score.is_correct for score in scores),
        answers=tuple(_printable(score.answer) for score in scores),
        nats=tuple(score.nats if math.isfinite(score.nats) else None for score in scores),
        targets=tuple(score.targets for score in scores),
    )
    # Another machine rounds differently; a verdict must rest on what is on record.
    with suppress(AlreadyExistsError):
        publish(store, layout.task_scores(weights, task.file.name), stored)
    return read_item_scores(store, layout, weights, task) or tuple(scores)


def _printable(answer: str) -> str:
    """An answer that JSON in UTF-8 can say: half a character becomes a mark."""
    return answer.encode("utf-8", "replace").decode("utf-8")
