"""Each rule on two texts that lie on the two sides of its published threshold."""

from collections.abc import Callable

import pytest

from tasks.curation.config import DomainRules
from tasks.curation.gopher import GopherRules
from tests.tasks.curation.planted import prose, reason_of, words

GOPHER = DomainRules(gopher=GopherRules())


def _joined(*parts: list[str] | str) -> str:
    return " ".join(part if isinstance(part, str) else " ".join(part) for part in parts)


def _strewn(mark: str, times: int) -> str:
    """90 words with a mark after every few of them."""
    text = ["the", "and", *words(88)]
    for place in range(times):
        text.insert(2 + place * 8, mark)
    return " ".join(text)


def _lines(count: int, marked: int, *, start: str = "", end: str = "") -> str:
    lines = prose(10 * count).replace(".", "").split("\n")
    return "\n".join(
        f"{start}{line}{end}" if place < marked else line for place, line in enumerate(lines)
    )


def _repeated_part(separator: str, excess: int) -> str:
    """A long part twice, the second time with a fifth of all characters, or ``excess`` more."""
    every = ["the", "and", *words(298, 4)]
    rows = [" ".join(every[place : place + 30]) for place in range(0, 300, 30)]
    text = separator.join(rows)
    length = (len(text) + 2 * len(separator)) // 3 + excess
    return separator.join([text, "k" * length, "k" * length])


def _short_parts(separator: str, times: int) -> str:
    """Seven long parts or parts of them, and a short one ``times`` times more."""
    parts = [prose(50, skip=50 * place) for place in range(6)] if separator == "\n\n" else None
    unique = parts or [" ".join(words(20, skip=20 * place)) + " the and" for place in range(6)]
    return separator.join([*unique, *["Oh."] * (1 + times)])


def _phrases(n: int, times: int, total: int = 1500) -> str:
    """``total`` words, of which a phrase of n words ``times`` times, never twice in a row."""
    phrase = words(n, 7, skip=500)
    filler = iter(words(total, 6))
    parts = [" ".join([next(filler), *phrase]) for _ in range(times)]
    rest = [next(filler) for _ in range(total - times * (n + 1))]
    return _joined("the and", parts, rest)


def _most_phrases(n: int, limit: float, *, is_top: bool) -> int:
    """How often a phrase may occur within the limit."""
    times = 2
    while True:
        text = _phrases(n, times)
        inside = times * (8 * n - 1) if is_top else (times - 1) * 7 * n
        if inside / len(text) > limit:
            return times - 1
        times += 1


PAIRS: list[tuple[str, Callable[[], str], Callable[[], str]]] = [
    ("gopher_quality:too_few_words", lambda: prose(50), lambda: prose(49)),
    (
        "gopher_quality:too_many_words",
        lambda: _joined("the and", words(99_998, 9)),
        lambda: _joined("the and", words(99_999, 9)),
    ),
    (
        "gopher_quality:short_words",
        lambda: _joined("the and", words(98, 3)),
        lambda: _joined("the and", words(97, 3), "xx"),
    ),
    (
        "gopher_quality:long_words",
        lambda: _joined("the and", words(84, 10), words(14, 11, skip=100)),
        lambda: _joined("the and", words(83, 10), words(15, 11, skip=100)),
    ),
    ("gopher_quality:hash_signs", lambda: _strewn("#", 10), lambda: _strewn("#", 11)),
    ("gopher_quality:ellipses", lambda: _strewn("...", 10), lambda: _strewn("...", 11)),
    ("gopher_quality:ellipses", lambda: _strewn("\u2026", 10), lambda: _strewn("\u2026", 11)),
    (
        "gopher_quality:bullet_lines",
        lambda: _lines(10, 9, start=" - "),
        lambda: _lines(10, 10, start=" \u2022 "),
    ),
    (
        "gopher_quality:ellipsis_lines",
        lambda: _lines(10, 3, end="... "),
        lambda: _lines(10, 4, end="\u2026"),
    ),
    (
        "gopher_quality:alphabetic_words",
        lambda: _joined("the and", words(78), [str(n) for n in range(20)]),
        lambda: _joined("the and", words(78), [str(n) for n in range(21)]),
    ),
    (
        "gopher_quality:stop_words",
        lambda: _joined("of with", words(60)),
        lambda: _joined("of of", words(60)),
    ),
    (
        "gopher_repetition:duplicate_lines",
        lambda: _short_parts("\n", 3),
        lambda: _short_parts("\n", 4),
    ),
    (
        "gopher_repetition:duplicate_paragraphs",
        lambda: _short_parts("\n\n", 3),
        lambda: _short_parts("\n\n", 4),
    ),
    (
        "gopher_repetition:duplicate_line_characters",
        lambda: _repeated_part("\n", 0),
        lambda: _repeated_part("\n", 1),
    ),
    (
        "gopher_repetition:duplicate_paragraph_characters",
        lambda: _repeated_part("\n\n", 0),
        lambda: _repeated_part("\n\n", 1),
    ),
]


@pytest.mark.parametrize(("reason", "kept", "dropped"), PAIRS)
def test_a_text_on_the_threshold_is_kept_and_one_beyond_is_dropped_for_it(
    reason: str, kept: Callable[[], str], dropped: Callable[[], str]
) -> None:
    assert reason_of(kept(), GOPHER) == ""
    assert reason_of(dropped(), GOPHER) == reason


@pytest.mark.parametrize(("n", "limit"), [(2, 0.2), (3, 0.18), (4, 0.16)])
def test_the_most_frequent_ngram_may_have_its_share_of_the_characters(n: int, limit: float) -> None:
    most = _most_phrases(n, limit, is_top=True)
    assert reason_of(_phrases(n, most), GOPHER) == ""
    assert reason_of(_phrases(n, most + 1), GOPHER) == f"gopher_repetition:top_{n}_gram"


@pytest.mark.parametrize(
    ("n", "limit"), [(5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.1)]
)
def test_repeated_ngrams_may_have_their_share_of_the_characters(n: int, limit: float) -> None:
    most = _most_phrases(n, limit, is_top=False)
    assert reason_of(_phrases(n, most), GOPHER) == ""
    assert reason_of(_phrases(n, most + 1), GOPHER) == f"gopher_repetition:duplicate_{n}_grams"


def test_bounds_that_drop_everything_are_refused() -> None:
    with pytest.raises(ValueError, match="min_words 9 is above max_words 8"):
        GopherRules(min_words=9, max_words=8)
