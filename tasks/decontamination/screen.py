"""The stage of a refresh that drops documents in which items of tasks stand."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from storage.snapshots import CheckedTask
from tasks.documents import Document
from tasks.evaluations.config import TaskConfig
from tasks.evaluations.configured import read_configured
from tasks.evaluations.frozen import FrozenItem, file_name
from tasks.evaluations.item_grams import ItemGrams

CONTAMINATED = "contaminated"
"""Reason of a document that is dropped here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sought:
    """The items that no training text may have, and from what share of one on."""

    min_share: float
    tasks: Mapping[str, tuple[FrozenItem, ...]]
    """By the name of the task."""
    files: Mapping[str, str]
    """Of each task the name of the file of its items, which is a hash of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """One item that a document would have given away."""

    document: str
    task: str
    item: str
    share: float
    """Of the item's own n-grams, that stand in the document."""


def read_sought(tasks: Sequence[TaskConfig], *, min_share: float) -> Sought:
    """Read the items of ``tasks`` from their files.

    Args:
        tasks: Of different names.
        min_share: From what share of an item on a document gives it away.

    Raises:
        ValueError: A file cannot be used; names file, line and field.
    """
    read = {task.name: read_configured(task) for task in tasks}
    files = {name: file_name(items) for name, items in read.items()}
    return Sought(min_share=min_share, tasks=read, files=files)


class LeakFinder:
    """Looks for task items in documents, each on its own.

    An item that stands in a document is evidence only as far as one document has it: what is
    spread over many gives nothing away.
    """

    def __init__(self, sought: Sought) -> None:
        self._min_share = sought.min_share
        self._grams = ItemGrams(sought.tasks)

    def leaks_in(self, documents: Sequence[Document]) -> list[tuple[Leak, ...]]:
        """What each document gives away, in the order of tasks and items."""
        all_shares = self._grams.shares_in_texts([document.text for document in documents])
        return [
            tuple(
                Leak(document=document.id, task=task, item=name, share=round(share, 4))
                for (task, name), share in sorted(shares.items())
                if share >= self._min_share
            )
            for document, shares in zip(documents, all_shares, strict=True)
        ]


class LeakRecord:
    """What documents gave away that were dropped for it."""

    def __init__(self, sought: Sought) -> None:
        self._sought = sought
        self.leaks: list[Leak] = []
        self._dropped: Counter[str] = Counter()

    def add(self, leaks: Sequence[Leak]) -> None:
        """Record what one document gave away."""
        self.leaks += leaks
        self._dropped.update({leak.task for leak in leaks})

    def checked(self) -> tuple[CheckedTask, ...]:
        """What was looked for, and how many documents each task has cost."""
        return tuple(
            CheckedTask(task=name, items=file, documents_dropped=self._dropped[name])
            for name, file in sorted(self._sought.files.items())
        )

    def write(self, path: Path) -> None:
        """One line of JSON a leak, in the order of the documents."""
        lines = (json.dumps(asdict(leak), sort_keys=True) + "\n" for leak in self.leaks)
        path.write_text("".join(lines), encoding="utf-8")
