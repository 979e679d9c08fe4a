import pytest

from tasks.curation.c4 import C4Rules
from tasks.curation.config import DomainRules
from tasks.curation.fineweb import FinewebRules
from tests.tasks.curation.planted import reason_of, words

FINEWEB = DomainRules(fineweb=FinewebRules())
_LONG = 8
"""Words of a long line: 8 words of 6 letters."""


def _lines(count: int, *, ended: int, short: int = 0) -> list[str]:
    unique = iter(words(count * _LONG))
    rows = [" ".join(next(unique) for _ in range(2 if n < short else _LONG)) for n in range(count)]
    return [f"{row}." if n >= count - ended else row for n, row in enumerate(rows)]


def _with_duplicate(excess: int) -> str:
    """A hundredth of all characters, or ``excess`` more, lies in a repeated line."""
    lines = _lines(100, ended=100)
    length = sum(map(len, lines)) // 98 + excess
    return "\n".join([*lines, "k" * (length - 1) + ".", "k" * (length - 1) + "."])


@pytest.mark.parametrize(
    ("reason", "kept", "dropped"),
    [
        ("fineweb:ended_lines", _lines(100, ended=12), _lines(100, ended=11)),
        ("fineweb:short_lines", _lines(100, ended=50, short=67), _lines(100, ended=50, short=68)),
        (
            "fineweb:newlines",
            [*_lines(2, ended=2), *[""] * 4],
            [*_lines(2, ended=2), *[""] * 5],
        ),
        ("fineweb:empty", _lines(1, ended=1), ["", " \t"]),
        (
            "fineweb:duplicate_line_characters",
            _with_duplicate(0).split("\n"),
            _with_duplicate(1).split("\n"),
        ),
    ],
)
def test_a_text_on_the_threshold_is_kept_and_one_beyond_is_dropped_for_it(
    reason: str, kept: list[str], dropped: list[str]
) -> None:
    assert reason_of("\n".join(kept), FINEWEB) == ""
    assert reason_of("\n".join(dropped), FINEWEB) == reason


def test_a_line_of_30_characters_is_short_and_one_of_31_is_not() -> None:
    rows = [f"{word} {'k' * 22}." for word in words(10, 6)]
    assert {len(row) for row in rows} == {30}
    assert reason_of("\n".join(rows), FINEWEB) == "fineweb:short_lines"
    assert reason_of("\n".join(f"k{row}" for row in rows), FINEWEB) == ""


def test_end_marks_of_other_scripts_end_a_line() -> None:
    for mark in "\u3002\u061f\u0964\uff01":
        text = "\n".join(f"{row}{mark}" for row in _lines(10, ended=0))
        assert reason_of(text, FINEWEB) == ""


def test_it_counts_in_the_lines_that_c4_has_left() -> None:
    both = DomainRules(c4=C4Rules(min_sentences=1), fineweb=FinewebRules())
    text = "\n".join(_lines(100, ended=5))
    assert reason_of(text, FINEWEB) == "fineweb:ended_lines"
    assert reason_of(text, both) == ""
