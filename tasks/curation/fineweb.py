"""FineWeb's own rules (Penedo et al. 2024, arXiv:2406.17557), after Gopher's and C4's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from infra.bounds import Bounds
from tasks.curation.gopher import Fraction, share
from tasks.curation.scorer import Batch, Numbers, Scorer, Verdicts, counted, whole_numbers
from training.config import FORBID_UNKNOWN

PREFIX = "fineweb_"


COLUMNS = (
    "lines",
    "ended_lines",
    "short_lines",
    "duplicate_line_characters",
    "characters",
    "newlines",
    "words",
)
"""What is counted of a text; only lines with something else than white space are ``lines``, and
``characters`` are all but newlines."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FinewebRules:
    """FineWeb's own rules. The defaults are those that its data was made with."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN

    min_ended_lines: Fraction = 0.12
    """Share of lines that end with an end mark of any script."""
    max_short_lines: Fraction = 0.67
    """Share of lines that are short."""
    short_line_characters: Annotated[int, Bounds(ge=0, unit="characters")] = 30
    """Longest line that counts as short."""
    max_duplicate_line_characters: Fraction = 0.01
    """Share of the characters in lines that occurred before: 0.01 as in datatrove's code, with
    which the data was made; the paper says 0.1."""
    max_newlines_per_word: Annotated[float, Bounds(ge=0)] = 0.3
    """Lists have more."""


def fineweb_verdicts(numbers: Numbers, rules: FinewebRules) -> Verdicts:
    """Which documents each rule drops."""
    lines = numbers["fineweb_lines"]
    yield "fineweb:empty", lines == 0
    ended = share(numbers["fineweb_ended_lines"], lines)
    yield "fineweb:ended_lines", ended < rules.min_ended_lines
    short = share(numbers["fineweb_short_lines"], lines)
    yield "fineweb:short_lines", short > rules.max_short_lines
    inside = share(numbers["fineweb_duplicate_line_characters"], numbers["fineweb_characters"])
    yield "fineweb:duplicate_line_characters", inside > rules.max_duplicate_line_characters
    newlines = share(numbers["fineweb_newlines"], numbers["fineweb_words"])
    yield "fineweb:newlines", newlines > rules.max_newlines_per_word


def _score(batch: Batch, rules: FinewebRules) -> tuple[Sequence[str], Numbers]:
    from tasks.curation.fineweb_counts import count_texts  # noqa: PLC0415  imports numba

    counts = count_texts(batch.texts, short_line_characters=rules.short_line_characters)
    return batch.texts, counted(PREFIX, COLUMNS, counts)


SCORER = Scorer("fineweb", whole_numbers(PREFIX, COLUMNS), _score, fineweb_verdicts)
