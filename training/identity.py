"""What of a configuration enters an identity: everything, but not before it existed."""

from dataclasses import MISSING, Field, fields, is_dataclass
from types import MappingProxyType
from typing import Any

ADDED_LATER = MappingProxyType({"added_later": True})
"""Metadata of a dataclass field that came after plans without it had been stored."""


def identity_fields(value: Any) -> Any:
    """``dataclasses.asdict``, without the fields that were added later and have their default.

    So a run that yesterday's code planned keeps its identity and goes on under today's, as long as
    it uses nothing new; what it does use is there. Plain values come back as they are.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {
            item.name: identity_fields(getattr(value, item.name))
            for item in fields(value)
            if not _is_news(item, getattr(value, item.name))
        }
    if isinstance(value, tuple | list):
        return [identity_fields(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, dict):
        return {key: identity_fields(item) for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType]
    return value


def _is_news(item: Field[Any], value: Any) -> bool:
    if not item.metadata.get("added_later"):
        return False
    if item.default_factory is not MISSING:
        return value == item.default_factory()
    return value == item.default
