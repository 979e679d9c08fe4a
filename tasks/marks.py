"""Consumed marks: which source files the lineage has read, with the entity tag of each."""

import json

from storage.errors import CorruptError, NotFoundError
from storage.layout import Layout
from storage.manifest import canonical_json, identity_of
from storage.objects import ObjectStore

_DIGEST_CHARS = 16


def publish_marks(store: ObjectStore, layout: Layout, marks: dict[str, str]) -> str:
    """Write ``marks``, entity tag by URI; returns their key. Safe to retry."""
    key = layout.marks(identity_of(marks)[:_DIGEST_CHARS])
    store.put_if_absent(key, canonical_json(marks))
    return key


def read_marks(store: ObjectStore, key: str | None) -> dict[str, str]:
    """The marks that a head names, none for a lineage that has read nothing.

    Raises:
        CorruptError: They are missing or altered.
    """
    if key is None:
        return {}
    try:
        marks = json.loads(store.get(key))
    except NotFoundError as error:
        raise CorruptError(
            f"expected the consumed marks at {key}, found nothing; without them every source would "
            "be read again: restore the object from a copy"
        ) from error
    except ValueError as error:
        raise CorruptError(
            f"{key} was altered: it is no JSON any more ({error}); restore it from a copy"
        ) from error
    if identity_of(marks)[:_DIGEST_CHARS] not in key:
        raise CorruptError(
            f"{key} was altered: its content has the digest {identity_of(marks)[:_DIGEST_CHARS]}; "
            "restore it from a copy"
        )
    return marks
