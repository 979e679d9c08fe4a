"""Frozen items: what a task asks, resolved to text once and kept under the hash of its content."""

import hashlib
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any

from storage.layout import Layout
from storage.manifest import (
    FileDigest,
    canonical_json,
    digest_bytes,
    identity_of,
    read_verified,
    readable_json,
    unseal,
)
from storage.objects import ObjectStore
from storage.suite import SuiteTask
from training.items.item import Item


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenItem:
    """An item, and what of its text is its own."""

    item: Item
    own_text: str = ""
    """Without the examples and instructions that all items share; "": context and right answer.
    This is looked for in the training text."""

    @property
    def text(self) -> str:
        """What must not have been trained on."""
        item = self.item
        return self.own_text or item.context_of(item.gold) + item.continuation_of(item.gold)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskItems:
    """What lies in the store: the items of one task, without its name."""

    items: tuple[FrozenItem, ...]


def item_id(values: Any) -> str:
    """A name for what has none: the first 16 hex digits of the hash of its content."""
    return identity_of(values)[:16]


def chosen(items: Sequence[FrozenItem], most: int) -> tuple[FrozenItem, ...]:
    """At most ``most`` of ``items``, in their order; equal ones once.

    Chosen by the hash of an item's content, so that the choice does not depend on the file's order
    and a longer file keeps most of it.

    Raises:
        ValueError: Different items have the same id.
    """
    by_id: dict[str, FrozenItem] = {}
    for item in items:
        if by_id.setdefault(item.item.id, item) != item:
            raise ValueError(
                f"the id {item.item.id!r} stands for two different items; give every item its own"
            )
    if len(by_id) <= most:
        return tuple(by_id.values())
    ranked = sorted(by_id.values(), key=_rank)
    kept = {item.item.id for item in ranked[:most]}
    return tuple(item for name, item in by_id.items() if name in kept)


def freeze_items(
    store: ObjectStore, layout: Layout, items: Sequence[FrozenItem], **told: Any
) -> SuiteTask:
    """Write items under the hash of their content. Safe to retry.

    Args:
        store: Where the lineage lies.
        layout: Of the lineage.
        items: At least one, all of one kind.
        told: The other fields of the ``SuiteTask``: name, origin, ...
    """
    kinds = {item.item.kind for item in items}
    if len(kinds) != 1:
        raise ValueError(f"expected items of one kind, found {sorted(kinds) or 'no item'}")
    file, body = file_of(items)
    store.put_if_absent(f"{layout.suite_items}/{file.name}", body)
    clusters = len({item.item.cluster for item in items})
    return SuiteTask(kind=kinds.pop(), items=len(items), clusters=clusters, file=file, **told)


def file_of(items: Sequence[FrozenItem]) -> tuple[FileDigest, bytes]:
    """The file that holds ``items``, named after its content, and its bytes."""
    body = readable_json(_content_of(items))
    return digest_bytes(body, file_name(items)), body


def file_name(items: Sequence[FrozenItem]) -> str:
    """The name of that file, which is a hash of the items."""
    return f"{hashlib.sha256(canonical_json(_content_of(items))).hexdigest()[:16]}.json"


def read_items(store: ObjectStore, layout: Layout, task: SuiteTask) -> tuple[FrozenItem, ...]:
    """The items of a task of the suite, every byte checked.

    Raises:
        CorruptError: They are missing or were altered.
    """
    body = read_verified(store, layout.suite_items, task.file)
    return unseal(body, f"{layout.suite_items}/{task.file.name}", TaskItems).items


def _rank(item: FrozenItem) -> str:
    return identity_of(item.item)


def _content_of(items: Sequence[FrozenItem]) -> dict[str, Any]:
    # Not the dataclass itself: a field added one day must not change what old items hash to.
    return {"items": [_set_fields(item) for item in items]}


def _set_fields(value: Any) -> dict[str, Any]:
    """The fields of a dataclass that differ from their defaults."""
    found: dict[str, Any] = {}
    for field in fields(value):
        inner = getattr(value, field.name)
        if field.default is MISSING or inner != field.default:
            found[field.name] = _set_fields(inner) if isinstance(inner, Item) else inner
    return found
