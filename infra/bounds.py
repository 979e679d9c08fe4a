"""Units and bounds of a configuration field, readable by people, pydantic and JSON schema alike.

``Annotated[int, Bounds(gt=0, unit="tokens")]`` keeps the core of ``training/`` free of pydantic:
the configuration classes are standard-library dataclasses, and pydantic finds the two hooks below
by name when ``flows/`` validates a YAML or builds a form.
"""

import math
from dataclasses import dataclass
from typing import Any

FORBID_UNKNOWN: dict[str, Any] = {"extra": "forbid"}
"""``__pydantic_config__`` of a configuration class."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """An interval and a unit. A number outside is refused with what is allowed.

    So is one that is not finite: JSON, which records it, has none.
    """

    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None
    unit: str | None = None
    """Unit of the number, as shown in forms and docs, e.g. ``tokens``."""

    def describe(self) -> str:
        """The interval in words, e.g. ``above 0 and at most 1``."""
        words = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
        limits = [
            f"{word} {getattr(self, name):g}"
            for name, word in words.items()
            if getattr(self, name) is not None
        ]
        return " and ".join(limits) + (f" {self.unit}" if self.unit and limits else "")

    def check(self, value: float | None) -> float | None:
        """Return ``value``, or raise ValueError when it lies outside; ``None`` passes."""
        if value is None:
            return value
        if isinstance(value, float) and not math.isfinite(value):
            limits = self.describe()
            raise ValueError(f"must be a number{f' {limits}' if limits else ''}, got {value:g}")
        inside = (
            (self.gt is None or value > self.gt)
            and (self.ge is None or value >= self.ge)
            and (self.lt is None or value < self.lt)
            and (self.le is None or value <= self.le)
        )
        if not inside:
            raise ValueError(f"must be {self.describe()}, got {value:g}")
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Hook of pydantic: check after its own type validation."""
        from pydantic_core import core_schema  # noqa: PLC0415  the only place that needs it

        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> Any:
        """Hook of pydantic: the bounds as JSON schema keywords, so that forms can enforce them."""
        json_schema = handler(schema)
        keywords = {
            "gt": "exclusiveMinimum",
            "ge": "minimum",
            "lt": "exclusiveMaximum",
            "le": "maximum",
        }
        limits = {
            keyword: getattr(self, name)
            for name, keyword in keywords.items()
            if getattr(self, name) is not None
        }
        target = next(
            (s for s in json_schema.get("anyOf", []) if s.get("type") != "null"), json_schema
        )
        target.update(limits)
        if self.unit:
            json_schema["unit"] = self.unit
        return json_schema
