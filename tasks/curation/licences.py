"""Which licences a source's documents may have."""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar

from tasks.curation.config import EVERY
from training.config import FORBID_UNKNOWN


@dataclass(frozen=True, kw_only=True, slots=True)
class LicenceRules:
    """Licences by name, in upper or lower case; ``*`` in a name stands for anything."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN

    allow: tuple[str, ...] = ()
    """Only these, such as ``CC0-1.0`` or ``CC-BY-*``; any when empty."""
    deny: tuple[str, ...] = ()
    """None of these, whatever ``allow`` says."""


def licence_reason(licence: str, rules: LicenceRules | None) -> str:
    """Why a document of this licence is dropped, "" when it may be used."""
    if rules is None:
        return ""
    if _matches(licence, rules.deny):
        return "licence:denied"
    if rules.allow and not _matches(licence, rules.allow):
        return "licence:not_allowed"
    return ""


def licences_of(rules: Mapping[str, LicenceRules], source: str) -> LicenceRules | None:
    """The rules for a source; those of ``"*"`` hold for what is not named."""
    return rules.get(source) or rules.get(EVERY)


def _matches(licence: str, patterns: tuple[str, ...]) -> bool:
    name = licence.strip().casefold()
    return any(fnmatchcase(name, pattern.strip().casefold()) for pattern in patterns)
