"""What a version grew from: the updates whose text it knows, and the takedowns that concern it."""

from collections.abc import Collection
from dataclasses import replace

from storage.head import Head, VersionRecord
from storage.layout import Layout
from storage.objects import ObjectStore
from tasks.update_plan import is_saved, load_plan


class Ancestors:
    """Which updates a version knows the text of, its own and those that it grew from.

    Args:
        store: Where the lineage lies.
        layout: Of the lineage.
        head: With the versions that are judged.
        others: Versions that are about to be.
    """

    def __init__(
        self,
        store: ObjectStore,
        layout: Layout,
        head: Head,
        others: Collection[VersionRecord] = (),
    ) -> None:
        self._store, self._layout = store, layout
        self._records = {record.version: record for record in (*head.versions, *others)}
        self._known: dict[str, frozenset[str]] = {}

    def of_version(self, record: VersionRecord) -> frozenset[str]:
        """Ids of the updates; reads their plans."""
        if record.merged_from:
            parents = [self.of_version(self._records[name]) for name in record.merged_from]
            return frozenset().union(*parents)
        return self._of_update(record.update)

    def _of_update(self, update: str) -> frozenset[str]:
        if update not in self._known:
            self._known[update] = frozenset({update}) | self._before(update)
        return self._known[update]

    def _before(self, update: str) -> frozenset[str]:
        # An imported base has no plan.
        if not is_saved(self._store, self._layout, update):
            return frozenset()
        train = load_plan(self._store, self._layout, update).train
        known: frozenset[str] = frozenset()
        if train.taken_over is not None:
            known |= self._of_update(train.taken_over.update)
        if train.initial is None:
            return known
        if train.initial.startswith(f"{self._layout.root}/updates/"):
            return known | self._of_update(self._layout.checkpoint_of(train.initial)[0])
        version = train.initial.rpartition("/")[2]
        return known | self.of_version(self._records[version])


def with_takedowns(
    store: ObjectStore,
    layout: Layout,
    head: Head,
    record: VersionRecord,
    others: Collection[VersionRecord] = (),
) -> VersionRecord:
    """``record`` with the takedowns of what it knows, itself or through what it grew from.

    A takedown marks the versions of its day. Weights that grow from those know the text as well.

    Args:
        store: Where the lineage lies.
        layout: Of the lineage.
        head: On which the version is judged.
        record: Of the version.
        others: Versions that are judged with it.
    """
    if not head.takedowns:
        return record
    updates = Ancestors(store, layout, head, others).of_version(record)
    known = {
        takedown for one in head.versions if one.update in updates for takedown in one.takedowns
    }
    return replace(record, takedowns=tuple(one for one in head.takedowns if one in known))
