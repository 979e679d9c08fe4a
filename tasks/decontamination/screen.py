"""The stage of a refresh that drops documents in which items of tasks stand."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

from storage.snapshots import CheckedTask
from tasks.curate import Curated
from tasks.evaluations.config import TaskConfig
from tasks.evaluations.configured import read_configured
from tasks.evaluations.frozen import FrozenItem, file_name
from tasks.evaluations.item_grams import ItemGrams, Place

CONTAMINATED = "contaminated"
"""Reason of a document that is dropped here."""
_BATCH_DOCUMENTS = 256


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


class DecontaminationScreen:
    """Looks at every kept document, and remembers what it dropped.

    An item that stands in a document is evidence only as far as one document has it: what is
    spread over many gives nothing away.
    """

    def __init__(self, sought: Sought) -> None:
        self._sought = sought
        self._grams = ItemGrams(sought.tasks)
        self.leaks: list[Leak] = []
        self._dropped: Counter[str] = Counter()

    def screen(self, curated: Iterable[Curated]) -> Iterator[Curated]:
        """Every document, in order; those that give an item away with ``CONTAMINATED``."""
        remaining = iter(curated)
        while batch := list(islice(remaining, _BATCH_DOCUMENTS)):
            yield from self._screened(batch)

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

    def _screened(self, batch: Sequence[Curated]) -> Iterator[Curated]:
        texts = [item.document.text for item in batch if not item.reason]
        all_shares = iter(self._grams.shares_in_texts(texts))
        for item in batch:
            leaks = [] if item.reason else self._leaks_of(item, next(all_shares))
            self.leaks += leaks
            self._dropped.update({leak.task for leak in leaks})
            yield replace(item, reason=CONTAMINATED) if leaks else item

    def _leaks_of(self, item: Curated, shares: Mapping[Place, float]) -> list[Leak]:
        return [
            Leak(document=item.document.id, task=task, item=name, share=round(share, 4))
            for (task, name), share in sorted(shares.items())
            if share >= self._sought.min_share
        ]
