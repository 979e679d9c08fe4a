"""When a person decides over a version."""

from dataclasses import dataclass
from typing import Any, ClassVar

from training.config import FORBID_UNKNOWN


@dataclass(frozen=True, kw_only=True, slots=True)
class ReviewConfig:
    """Which versions wait for a person before they are published.

    An AMBIGUOUS one always does, a FAIL never.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN

    always: bool = False
    """True: also a PASS waits until a person approves it."""
