import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.curation.annotate import annotate
from tasks.curation.c4 import C4Rules
from tasks.curation.config import DomainRules
from tasks.curation.fineweb import FinewebRules
from tasks.curation.gopher import GopherRules
from tasks.curation.word_rules import code_points, word_rules
from tasks.curation.words import split_words


def words_of(text: str) -> list[str]:
    points = code_points(text)
    starts, ends, scratch = (np.empty(len(points) + 1, np.int32) for _ in range(3))
    count = split_words(points, 0, len(points), word_rules(), starts, ends, scratch)
    return [text[starts[place] : ends[place]] for place in range(count)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I don't, you know.", "I|do|n't|,|you|know|."),
        ("they\u2019ll can't cannot dont its", "they|\u2019ll|ca|n't|can|not|do|nt|its"),
        ("Mr. Smith's dog (e.g. Rex).", "Mr.|Smith|'s|dog|(|e.g.|Rex|)|."),
        ("U.S.A. and the USA.", "U.S.A.|and|the|USA|."),
        ("wait...what? no--never well-known", "wait|...|what|?|no|--|never|well|-|known"),
        ("at https://a.org/b-c or me@a.org!", "at|https://a.org/b-c|or|me@a.org|!"),
        ("either/or a=b 3-4 10km 5% $3 US$5", "either|/|or|a|=|b|3|-|4|10|km|5|%|$|3|US$|5"),
        ("f(x):\n    return '' :-)", "f(x|):|return|''|:-)"),
        ("\u201cOh!\u201d \u00bfqu\u00e9?", "\u201c|Oh|!|\u201d|\u00bf|qu\u00e9|?"),
        ("\u6771\u4eac\u3002\u5927\u962a", "\u6771\u4eac\u3002\u5927\u962a"),
        ("", ""),
    ],
)
def test_words_are_told_from_their_punctuation(text: str, expected: str) -> None:
    assert "|".join(words_of(text)) == expected


# The first call loads machine code, or makes it.
@settings(deadline=None)
@given(st.text(st.sampled_from("aZ.,'\u2019-/:@()!?$5% \n\u2026\u4e2d\U0001f600")) | st.text())
def test_the_words_of_a_text_are_all_of_it_but_white_space(text: str) -> None:
    assert "".join(words_of(text)) == "".join(text.split())


@pytest.mark.parametrize(
    "piece", ["(", ".", "a@", "'", "a-b", "a.b", "\n", "a ", "1+", "x:/", "[1]", ":)", "\u2026"]
)
def test_no_text_takes_long(piece: str) -> None:
    text = piece * (1_000_000 // len(piece))
    rules = DomainRules(gopher=GopherRules(), c4=C4Rules(), fineweb=FinewebRules())
    annotate(["first"], [""], rules)
    started_at = time.process_time()
    annotate([text, text.replace("\n", "") + "."], ["", ""], rules)
    # What is quadratic in it takes hours.
    assert time.process_time() - started_at < 5
