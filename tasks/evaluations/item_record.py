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
    """One model's scores of the items of one file, or of a part of it, column by column."""

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
    return _read(store, layout.task_scores(weights, task.file.name), weights, task, task.items)


def read_part(
    store: ObjectStore, layout: Layout, weights: str, task: SuiteTask, first: int, num_items: int
) -> tuple[ItemScore, ...] | None:
    """The scores of ``num_items`` items of the file from the place ``first`` on; None without any.

    Raises:
        CorruptError: The record is damaged, or of other items.
    """
    key = _key_of_part(layout, weights, task, first, num_items)
    return _read(store, key, weights, task, num_items)


def _key_of_part(layout: Layout, weights: str, task: SuiteTask, first: int, num_items: int) -> str:
    stem = task.file.name.removesuffix(".json")
    return layout.task_scores(weights, f"{stem}-{first}-{first + num_items}.json")


def _read(
    store: ObjectStore, key: str, weights: str, task: SuiteTask, num_items: int
) -> tuple[ItemScore, ...] | None:
    try:
        stored = load(store, key, StoredItemScores)
    except NotFoundError:
        return None
    columns = (stored.clusters, stored.is_correct, stored.answers, stored.nats, stored.targets)
    if (stored.weights, stored.content, len(stored.items)) != (
        weights,
        task.file.sha256,
        num_items,
    ) or {len(column) for column in columns} != {num_items}:
        raise CorruptError(
            f"{key} holds {len(stored.items)} scores of items {stored.content[:12]} by the model "
            f"{stored.weights[:12]}, expected {num_items} of {task.file.sha256[:12]} by "
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
    _write(store, layout.task_scores(weights, task.file.name), weights, task, scores)
    return read_item_scores(store, layout, weights, task) or tuple(scores)


def write_part(
    store: ObjectStore,
    layout: Layout,
    weights: str,
    task: SuiteTask,
    first: int,
    scores: Sequence[ItemScore],
) -> None:
    """Put the scores of the items from the place ``first`` on on record. Safe to retry."""
    key = _key_of_part(layout, weights, task, first, len(scores))
    _write(store, key, weights, task, scores)


def _write(
    store: ObjectStore, key: str, weights: str, task: SuiteTask, scores: Sequence[ItemScore]
) -> None:
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
        publish(store, key, stored)


def _printable(answer: str) -> str:
    """An answer that JSON in UTF-8 can say: half a character becomes a mark."""
    return answer.encode("utf-8", "replace").decode("utf-8")
