"""Which unfinished updates are needed: the one at work, and those that it goes on from."""

from dataclasses import dataclass

from storage.layout import Layout
from storage.lease_record import read_lease
from storage.manifest import load
from storage.objects import ObjectStore


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenOverMark:
    """``taken-over.json`` of an update that begins with another one's checkpoint."""

    update: str
    """The other one."""


def needed_updates(store: ObjectStore, layout: Layout) -> list[str]:
    """The update at work, the one that was begun and not judged, and those that they go on from."""
    record = read_lease(store, layout)
    needed: list[str] = []
    for begun in (record.note, record.unfinished) if record else ():
        update = begun
        while update and update not in needed:
            needed.append(update)
            mark = layout.taken_over(update)
            update = load(store, mark, TakenOverMark).update if store.exists(mark) else ""
    return needed
