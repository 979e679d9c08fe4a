"""Where two configurations differ, field by field. Pure; needs no torch."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_NAMED = 6
"""Changes that a sentence names; who changed more knows that it is another training."""
_LONGEST = 60


@dataclass(frozen=True, slots=True)
class Change:
    """One field that has another value than it had."""

    path: str
    """As it is written in the configuration, ``schedule.eta_max``."""
    before: Any
    now: Any


def differences(before: Any, now: Any, path: str = "") -> list[Change]:
    """Every field in which two values of JSON differ, in the order of their names.

    A list is one field: which of a mixture's hundreds of streams moved says less than that they
    did. A field that one side lacks has None there.
    """
    if isinstance(before, dict) and isinstance(now, dict):
        return [
            change
            for name in sorted(before.keys() | now.keys())  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
            for change in differences(before.get(name), now.get(name), f"{path}.{name}".strip("."))  # pyright: ignore[reportUnknownArgumentType]
        ]
    return [] if before == now else [Change(path, before, now)]


def told(changes: Sequence[Change], form: str = "{path} was {before}, now {now}") -> str:
    """The changes in words, the first few of them by name and value.

    Args:
        changes: At least one.
        form: Of one of them, with the names of ``Change``.
    """
    named = [
        form.format(path=change.path, before=_shown(change.before), now=_shown(change.now))
        for change in changes[:_NAMED]
    ]
    more = len(changes) - len(named)
    return ", ".join(named) + (f" and {more} more" if more else "")


def _shown(value: Any) -> str:
    """A value in a sentence: short, whatever it is."""
    if isinstance(value, list):
        digest = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:6]
        return f"{len(value):,} entries ({digest})"  # pyright: ignore[reportUnknownArgumentType]
    if type(value) is int:
        return f"{value:,}"
    text = "not set" if value is None else str(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
