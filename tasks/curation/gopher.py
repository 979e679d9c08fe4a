"""Gopher's rules on quality and repetition (Rae et al. 2021, arXiv:2112.11446, appendix A)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from infra.bounds import Bounds
from tasks.curation.scorer import Batch, Numbers, Scorer, Verdicts, counted, whole_numbers
from training.config import FORBID_UNKNOWN

Fraction = Annotated[float, Bounds(ge=0, le=1)]

PREFIX = "gopher_"
"""Of the columns' names."""


COLUMNS = (
    "characters",
    "words",
    "counted_words",
    "counted_word_characters",
    "alphabetic_words",
    "stop_words",
    "hash_signs",
    "ellipses",
    "lines",
    "bullet_lines",
    "ellipsis_lines",
    "paragraphs",
    "duplicate_paragraphs",
    "duplicate_paragraph_characters",
    "text_lines",
    "duplicate_lines",
    "duplicate_line_characters",
    *(f"top_{n}_gram_characters" for n in (2, 3, 4)),
    *(f"duplicate_{n}_gram_characters" for n in range(5, 11)),
)
"""What is counted of a text. ``counted_words`` are words that are more than symbols, ``text_lines``
are divided by any number of newlines, ``lines`` by whatever ends one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GopherRules:
    """Gopher's rules. The defaults are the published thresholds; bounds are inclusive.

    They count words by the punctuation and contractions of English and look for its stop words;
    for languages that write without spaces they mean nothing.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN

    min_words: Annotated[int, Bounds(ge=0, unit="words")] = 50
    """Fewest words that are more than symbols."""
    max_words: Annotated[int, Bounds(ge=1, unit="words")] = 100_000
    """Most such words."""
    min_mean_word_length: Annotated[float, Bounds(ge=0, unit="characters")] = 3.0
    """Shortest mean length of such words."""
    max_mean_word_length: Annotated[float, Bounds(gt=0, unit="characters")] = 10.0
    """Longest mean length of such words."""
    max_symbols_per_word: Annotated[float, Bounds(ge=0)] = 0.1
    """Hash signs a word, and ellipses a word."""
    max_bullet_lines: Fraction = 0.9
    """Share of lines that begin with a bullet."""
    max_ellipsis_lines: Fraction = 0.3
    """Share of lines that end with an ellipsis."""
    min_alphabetic_words: Fraction = 0.8
    """Share of words with a letter in them."""
    min_stop_words: Annotated[int, Bounds(ge=0, le=8)] = 2
    """How many of the, be, to, of, and, that, have, with must occur."""
    max_duplicate_lines: Fraction = 0.3
    """Share of lines that occurred before in the text."""
    max_duplicate_paragraphs: Fraction = 0.3
    """Share of paragraphs that occurred before."""
    max_duplicate_line_characters: Fraction = 0.2
    """Share of the characters that lies in such lines."""
    max_duplicate_paragraph_characters: Fraction = 0.2
    """Share of the characters that lies in such paragraphs."""
    max_top_ngram_characters: tuple[Fraction, Fraction, Fraction] = (0.2, 0.18, 0.16)
    """Share of the characters in the most frequent n-gram of words, for n = 2, 3, 4."""
    max_duplicate_ngram_characters: tuple[
        Fraction, Fraction, Fraction, Fraction, Fraction, Fraction
    ] = (0.15, 0.14, 0.13, 0.12, 0.11, 0.1)
    """Share of the characters in n-grams that occurred before, for n = 5 to 10."""

    def __post_init__(self) -> None:
        for what, low, high in (
            ("words", self.min_words, self.max_words),
            ("mean_word_length", self.min_mean_word_length, self.max_mean_word_length),
        ):
            if low > high:
                raise ValueError(
                    f"gopher: min_{what} {low:g} is above max_{what} {high:g}, so every document "
                    "would be dropped; lower one or raise the other"
                )


def gopher_verdicts(numbers: Numbers, rules: GopherRules) -> Verdicts:
    """Which documents each rule drops, in the order in which FineWeb applied them."""
    of = {
        name.removeprefix(PREFIX): column
        for name, column in numbers.items()
        if name.startswith(PREFIX)
    }
    yield from _repetition(of, rules)
    yield from _quality(of, rules)


def _repetition(of: Numbers, rules: GopherRules) -> Verdicts:
    characters = of["characters"]
    for part, whole, part_limit, character_limit in (
        (
            "paragraph",
            "paragraphs",
            rules.max_duplicate_paragraphs,
            rules.max_duplicate_paragraph_characters,
        ),
        ("line", "text_lines", rules.max_duplicate_lines, rules.max_duplicate_line_characters),
    ):
        duplicates = share(of[f"duplicate_{part}s"], of[whole])
        yield f"gopher_repetition:duplicate_{part}s", duplicates > part_limit
        inside = share(of[f"duplicate_{part}_characters"], characters)
        yield f"gopher_repetition:duplicate_{part}_characters", inside > character_limit
    for n, limit in enumerate(rules.max_top_ngram_characters, 2):
        inside = share(of[f"top_{n}_gram_characters"], characters)
        yield f"gopher_repetition:top_{n}_gram", inside > limit
    for n, limit in enumerate(rules.max_duplicate_ngram_characters, 5):
        inside = share(of[f"duplicate_{n}_gram_characters"], characters)
        yield f"gopher_repetition:duplicate_{n}_grams", inside > limit


def _quality(of: Numbers, rules: GopherRules) -> Verdicts:
    words, counted = of["words"], of["counted_words"]
    yield "gopher_quality:too_few_words", counted < rules.min_words
    yield "gopher_quality:too_many_words", counted > rules.max_words
    mean_length = share(of["counted_word_characters"], counted)
    yield "gopher_quality:short_words", mean_length < rules.min_mean_word_length
    yield "gopher_quality:long_words", mean_length > rules.max_mean_word_length
    most = rules.max_symbols_per_word
    yield "gopher_quality:hash_signs", share(of["hash_signs"], words) > most
    yield "gopher_quality:ellipses", share(of["ellipses"], words) > most
    lines = of["lines"]
    yield "gopher_quality:bullet_lines", share(of["bullet_lines"], lines) > rules.max_bullet_lines
    inside = share(of["ellipsis_lines"], lines)
    yield "gopher_quality:ellipsis_lines", inside > rules.max_ellipsis_lines
    alphabetic = share(of["alphabetic_words"], words)
    yield "gopher_quality:alphabetic_words", alphabetic < rules.min_alphabetic_words
    yield "gopher_quality:stop_words", of["stop_words"] < rules.min_stop_words


def share(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    """``part / whole``, 0 where ``whole`` is 0."""
    return np.divide(part, np.maximum(whole, 1), dtype=np.float64)


def _score(batch: Batch, _rules: GopherRules) -> tuple[Sequence[str], Numbers]:
    from tasks.curation.gopher_counts import count_texts  # noqa: PLC0415  imports numba

    return batch.texts, counted(PREFIX, COLUMNS, count_texts(batch.texts))


SCORER = Scorer("gopher", whole_numbers(PREFIX, COLUMNS), _score, gopher_verdicts)
