"""Units are cut as signatures cut them, each text on its own."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.near_duplicates.units import units_of


# The first text compiles.
@settings(deadline=None)
@given(st.lists(st.text(max_size=20), min_size=1, max_size=8))
def test_the_units_of_a_text_do_not_depend_on_its_neighbours(texts: list[str]) -> None:
    units, ends = units_of(texts)
    starts = np.concatenate([[0], ends[:-1]]).astype(int)
    for text, start, end in zip(texts, starts, ends, strict=True):
        assert units[start:end].tolist() == units_of([text])[0].tolist()
    assert len(units) == ends[-1]


def test_a_unit_is_a_folded_word_or_a_character_of_a_script_without_spaces() -> None:
    units, ends = units_of(["One, one: TWO", "one two", "中文", ""])
    one, same, two = units[: ends[0]].tolist()
    assert one == same
    assert units[ends[0] : ends[1]].tolist() == [one, two]
    assert ends.tolist() == [3, 5, 7, 7]
    assert len({one, two, *units[5:].tolist()}) == 4
