"""What a command or flow did, as one small value with an exit code."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Kind = Literal[
    "done",
    "nothing to do",
    "planned",
    "skipped",
    "stopped",
    "decided",
    "PASS",
    "FAIL",
    "AMBIGUOUS",
    "awaiting",
    "left over",
]

EXIT_CODES: dict[Kind, int] = {
    "done": 0,
    "nothing to do": 0,
    "planned": 0,
    "skipped": 0,
    "stopped": 0,
    "decided": 0,
    "PASS": 0,
    "FAIL": 3,
    "AMBIGUOUS": 4,
    "awaiting": 4,
    "left over": 4,
}
"""0 done or nothing to do, 2 usage, 3 verdict FAIL, 4 needs a person, 1 anything else."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """The end of a flow run."""

    lineage: str
    kind: Kind
    message: str
    head: int | None = None
    """Number of the lineage's newest head."""
    version: str | None = None
    """The candidate, if there was one."""
    snapshot: str | None = None
    report: str | None = None
    """URI of the report."""
    details: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    """What a person should know of the data, though nothing failed."""
    chart: str = ""
    """A drawing of characters that a terminal shows below the text; for a font of fixed width."""

    @property
    def exit_code(self) -> int:
        """The command's exit code."""
        return EXIT_CODES[self.kind]

    @property
    def text(self) -> str:
        """The message and the warnings, a line each."""
        return "\n".join((self.message, *(f"WARNING: {warning}" for warning in self.warnings)))

    def to_json(self) -> str:
        """One JSON object, for ``--json``."""
        return json.dumps(asdict(self), indent=2, sort_keys=True)
