"""Documents made of paragraphs of earlier ones, told by comparing every paragraph with all."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.known_documents import KnownDocuments
from storage.known_piece import KnownPiece, sorted_keys
from tasks.paragraphs import ParagraphRules, ParagraphScreen, paragraphs_of

_RULES = ParagraphRules(max_share=0.5, min_characters=20)
_NONE = sorted_keys(np.empty(0, "S16"))
_LINES = [f"line {n} of some text that is long enough {n}" for n in range(6)]
_TEXTS = st.lists(
    st.lists(st.sampled_from([*_LINES, "short one"]), min_size=1, max_size=5).map("\n".join),
    max_size=20,
)
# A folder a function is enough here.
_SETTINGS = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _repeats(
    texts: Sequence[str], path: Path, before: Sequence[Path] = (), at_once: int = 100
) -> list[bool]:
    known = KnownDocuments(
        [
            KnownPiece(_NONE, _NONE, _NONE, sorted_keys(np.frombuffer(p.read_bytes(), "S16")))
            for p in before
        ]
    )
    screen = ParagraphScreen(known)
    found: list[bool] = []
    for first in range(0, len(texts), at_once):
        batch = texts[first : first + at_once]
        paragraphs = paragraphs_of(batch, [_RULES] * len(batch))
        assert paragraphs is not None
        found += screen.repeats(paragraphs, np.ones(len(batch), bool)).tolist()
    screen.write(path)
    return found


def _by_the_rule(texts: Sequence[str]) -> list[bool]:
    seen: set[str] = set()
    found: list[bool] = []
    for text in texts:
        lines = [line for line in text.split("\n") if len(line) >= _RULES.min_characters]
        known = sum(len(line) for line in lines if line in seen)
        found.append(known > _RULES.max_share * len(text))
        if not found[-1]:
            seen.update(lines)
    return found


@_SETTINGS
@given(texts=_TEXTS, at_once=st.integers(1, 7))
def test_a_document_goes_when_too_much_of_it_stands_in_earlier_kept_ones(
    texts: list[str], at_once: int, tmp_path: Path
) -> None:
    assert _repeats(texts, tmp_path / "p", at_once=at_once) == _by_the_rule(texts)


@_SETTINGS
@given(texts=_TEXTS, cuts=st.tuples(st.integers(0, 20), st.integers(0, 20)))
def test_three_refreshes_keep_what_one_over_the_same_order_keeps(
    texts: list[str], cuts: tuple[int, int], tmp_path: Path
) -> None:
    first, second = sorted(cuts)
    found: list[bool] = []
    before: list[Path] = []
    for number, part in enumerate((texts[:first], texts[first:second], texts[second:])):
        path = tmp_path / str(number)
        found += _repeats(part, path, before)
        before.append(path)
    assert found == _repeats(texts, tmp_path / "whole")


def test_what_an_earlier_stage_has_dropped_teaches_nothing(tmp_path: Path) -> None:
    screen = ParagraphScreen(KnownDocuments([]))
    text = "\n".join(_LINES[:2])
    paragraphs = paragraphs_of([text, text], [_RULES] * 2)
    assert paragraphs is not None
    assert screen.repeats(paragraphs, np.array([False, True])).tolist() == [False, False]
    screen.write(tmp_path / "p")
    stored = (tmp_path / "p").read_bytes()
    assert len(stored) == 2 * 16
    assert sorted([stored[:16], stored[16:]]) == [stored[:16], stored[16:]]


def test_lines_that_many_documents_share_are_no_paragraphs(tmp_path: Path) -> None:
    texts = ["All rights reserved\n" + line for line in _LINES]
    assert not any(_repeats(texts, tmp_path / "p"))
    assert paragraphs_of(["a" * 100], [None]) is None
    with_and_without = paragraphs_of(["a" * 100, "a" * 100], [None, _RULES])
    assert with_and_without is not None
    assert with_and_without.counts.tolist() == [0, 1]
