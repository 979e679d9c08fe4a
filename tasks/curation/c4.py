"""C4's rules (Raffel et al. 2020, arXiv:1910.10683), which remove lines and drop pages.

Its list of bad words is not applied: it removes text by and about minorities out of proportion
(Dodge et al. 2021, arXiv:2104.08758).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from infra.bounds import Bounds
from tasks.curation.scorer import Batch, Numbers, Scorer, Verdicts, counted, whole_numbers
from training.config import FORBID_UNKNOWN

PREFIX = "c4_"


COLUMNS = ("kept_lines", "sentences", "lorem_ipsum_lines", "curly_bracket_lines")
"""What is counted of a text; ``sentences`` are those of the kept lines."""


@dataclass(frozen=True, kw_only=True, slots=True)
class C4Rules:
    """C4's rules, of the paper and its code. They remove lines, so the text becomes another one.

    A line is kept if it ends a sentence, has enough words and none that is too long, and mentions
    neither JavaScript nor terms of use, privacy and cookie policies; marks of citations go. FineWeb
    used them with ``end_marks: false``. No good for code: a curly bracket drops a document.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN

    min_sentences: Annotated[int, Bounds(ge=0, unit="sentences")] = 5
    """Fewest sentences in the lines that are kept."""
    end_marks: bool = True
    """Keep only lines that end with . ? ! " or '."""
    min_words_per_line: Annotated[int, Bounds(ge=0, unit="words")] = 3
    """Fewest words of a line that is kept."""
    max_word_characters: Annotated[int, Bounds(ge=1, unit="characters")] = 1000
    """Longest word of a line that is kept."""


def c4_verdicts(numbers: Numbers, rules: C4Rules) -> Verdicts:
    """Which documents each rule drops."""
    yield "c4:lorem_ipsum", numbers["c4_lorem_ipsum_lines"] > 0
    yield "c4:curly_bracket", numbers["c4_curly_bracket_lines"] > 0
    yield "c4:too_few_sentences", numbers["c4_sentences"] < rules.min_sentences


def _score(batch: Batch, rules: C4Rules) -> tuple[Sequence[str], Numbers]:
    from tasks.curation.c4_lines import clean_lines  # noqa: PLC0415  imports numba

    left, counts = clean_lines(
        batch.texts,
        needs_end_mark=rules.end_marks,
        min_words_per_line=rules.min_words_per_line,
        max_word_characters=rules.max_word_characters,
    )
    return left, counted(PREFIX, COLUMNS, counts)


SCORER = Scorer("c4", whole_numbers(PREFIX, COLUMNS), _score, c4_verdicts)
