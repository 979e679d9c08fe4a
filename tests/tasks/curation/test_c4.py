import pytest

from tasks.curation.c4 import C4Rules
from tasks.curation.config import DomainRules
from tests.tasks.curation.planted import cleaned, reason_of

C4 = DomainRules(c4=C4Rules())
FIVE = "One two three. Four five six! Seven eight nine? Ten eleven twelve.\nThirteen is a number."


def test_five_sentences_are_kept_and_four_are_too_few() -> None:
    assert reason_of(FIVE, C4) == ""
    assert reason_of(FIVE.replace("twelve.\n", "twelve,\n"), C4) == "c4:too_few_sentences"


def test_abbreviations_and_decimals_end_no_sentence() -> None:
    four = "Mr. Smith paid 3.5 dollars. He did, e.g. yesterday! Was it Dr. No? It was not."
    assert reason_of(four, C4) == "c4:too_few_sentences"
    assert reason_of(f"{four} It was five.", C4) == ""


@pytest.mark.parametrize(
    ("added", "reason"),
    [
        ("Here is Lorem Ipsum dolor.", "c4:lorem_ipsum"),
        ("Here is a { bracket.", "c4:curly_bracket"),
        ("Here is a { bracket without an end", ""),
        ("Here is lorem but not ipsum.", ""),
    ],
)
def test_a_page_with_dummy_text_or_a_curly_bracket_in_a_kept_line_is_dropped(
    added: str, reason: str
) -> None:
    assert reason_of(f"{FIVE}\n{added}", C4) == reason


@pytest.mark.parametrize(
    "line",
    [
        "This line has no end mark",
        "This line trails off...",
        "Two words.",
        "Please enable JavaScript to see it.",
        "Read our Privacy Policy before that.",
        "Read the terms of use before that.",
        "This site uses cookies, as others do.",
        f"This is {'k' * 1001} indeed.",
        "",
    ],
)
def test_lines_that_are_no_prose_are_removed(line: str) -> None:
    assert cleaned(f"{line}\n{FIVE}\n{line}", C4) == FIVE


@pytest.mark.parametrize(
    "line",
    [
        'He said "so it is"',
        "Three words here.",
        f"This is {'k' * 1000} indeed.",
        "Java script, privacy and a policy are words.",
    ],
)
def test_lines_of_prose_stay_as_they_are(line: str) -> None:
    assert cleaned(f"{line}\n{FIVE}", C4) == f"{line}\n{FIVE}"


def test_marks_of_citations_and_white_space_around_lines_go() -> None:
    text = f"  As it was[12] shown[citation needed] there.[edit]\t\n{FIVE}"
    assert cleaned(text, C4) == f"As it was shown there.\n{FIVE}"


def test_without_end_marks_lines_need_none() -> None:
    lenient = DomainRules(c4=C4Rules(end_marks=False))
    assert cleaned(f"A line without it\n{FIVE}", lenient) == f"A line without it\n{FIVE}"


def test_a_text_of_which_nothing_is_left_has_no_sentence() -> None:
    for text in ("", "\n\n", "a\nb"):
        assert cleaned(text, C4) == ""
        assert reason_of(text, C4) == "c4:too_few_sentences"
