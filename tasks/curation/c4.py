"""C4's rules (Raffel et al. 2020, arXiv:1910.10683), which remove lines and drop pages.

Its list of bad words is not applied: it removes text by and about minorities out of proportion
(Dodge et al. 2021, arXiv:2104.08758).
"""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from infra.bounds import Bounds
from tasks.curation.gopher import Numbers, Verdicts
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
