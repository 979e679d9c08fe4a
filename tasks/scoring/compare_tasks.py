"""Tasks that two models are compared on: files that a person names, or those of a suite."""

from collections.abc import Sequence
from dataclasses import dataclass

from storage.layout import Layout
from storage.objects import ObjectStore
from storage.suite import SuiteManifest
from tasks.evaluations.chance import why_informing
from tasks.evaluations.config import TaskConfig
from tasks.evaluations.frozen import chosen, read_items
from tasks.evaluations.harness import read_harness
from tasks.evaluations.plain import read_plain
from tasks.judge.verdict import TaskScores
from training.items.item import Item
from training.items.score import ItemScore


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenTask:
    """Questions with right answers, as texts that any tokenizer can cut."""

    name: str
    items: tuple[Item, ...]
    informs_only: bool = False


def read_given_tasks(configs: Sequence[TaskConfig]) -> list[GivenTask]:
    """The items of files that a person named.

    Raises:
        ValueError: A definition or a data file cannot be used; names file, line and field.
    """
    tasks: list[GivenTask] = []
    for config in configs:
        read = read_harness(config) if config.kind == "lm_eval" else read_plain(config)
        items = tuple(frozen.item for frozen in chosen(read, config.max_items))
        if any(item.kind == "perplexity" for item in items):
            raise ValueError(
                f"{config.uri} holds texts without questions: give them by --text, which compares "
                "their losses"
            )
        tasks.append(GivenTask(name=config.name, items=items))
    return tasks


def read_suite_tasks(
    store: ObjectStore, layout: Layout, suite: SuiteManifest | None
) -> list[GivenTask]:
    """The questions of a lineage's suite.

    Raises:
        CorruptError: A file of items is damaged.
    """
    return [
        GivenTask(
            name=task.name,
            items=tuple(frozen.item for frozen in read_items(store, layout, task)),
            informs_only=task.informs_only,
        )
        for task in (suite.tasks if suite else ())
        if task.kind != "perplexity"
    ]


def answered(task: GivenTask, a: tuple[ItemScore, ...], b: tuple[ItemScore, ...]) -> TaskScores:
    """Both models' answers; a task that A answers no better than by guessing guards nothing."""
    why = why_informing(task.items, a, "A", informs_only=task.informs_only)
    return TaskScores(
        task=task.name, candidate=b, champion=a, is_guarded=not why, why_unguarded=why
    )
