"""Rules of lm-evaluation-harness, with which tests/benchmarks/bench_items.py compares numbers."""

from typing import Any

import pytest

from tests.training.items.pieces import PieceTokenizer, ids
from training.items.item import Item
from training.items.windows import Continuation, Window, continuations_of, prompts_of, windows_of

S = "<start>"


def windows(context: str, text: str, *, window: int = 50, **about: bool) -> list[Window]:
    tokenizer = PieceTokenizer(**about)
    return windows_of([Continuation(context, text)], tokenizer, window_tokens=window)


@pytest.mark.parametrize(
    ("context", "text", "expected", "targets"),
    [
        pytest.param("ef", " abc", ("e", "f", " abc"), 1, id="appended"),
        pytest.param("ef", "abcd", ("e", "f", "abc", "d"), 2, id="without a delimiter"),
        pytest.param("ef ", "abc", ("e", "f", " abc"), 1, id="a space goes to the continuation"),
        pytest.param("ef \n", "b", ("e", "f", " ", "\n", "b"), 3, id="so does other whitespace"),
        pytest.param("", " abc", (S, " abc"), 1, id="nothing before"),
        pytest.param("  ", "b", (S, " ", " b"), 2, id="only spaces before"),
        # "eab" is e ab and the whole e abc: what the context has alone is read.
        pytest.param("eab", "cd", ("e", "ab", "d"), 1, id="tokens melt, as many are scored"),
        pytest.param("eab", "c", ("e", "abc"), 1, id="the continuation melts into the context"),
        pytest.param("ab", "c", (S, "abc"), 1, id="all melts into one token"),
    ],
)
def test_context_and_continuation_are_encoded_together_and_split_by_the_context(
    context: str, text: str, expected: tuple[str, ...], targets: int
) -> None:
    assert windows(context, text) == [Window(0, ids(*expected), targets)]


def test_a_tokenizer_that_opens_texts_opens_every_window() -> None:
    (window,) = windows("ef", " abc", adds_start=True)
    assert window.tokens == ids(S, "e", "f", " abc")
    (window,) = windows("", " abc", adds_start=True)
    assert window.tokens == ids(S, " abc")


def test_what_does_not_fit_loses_the_beginning_of_its_context() -> None:
    (window,) = windows("efghefgh", "cde", window=5)
    # Five are read, all but the last.
    assert window.tokens == ids("e", "f", "g", "h", "cd", "e")
    assert window.targets == 2


def test_a_continuation_longer_than_the_window_is_scored_once_with_all_the_context_there_is() -> (
    None
):
    found = windows("", "abcdefghfeg", window=4)
    tokens = ids("abc", "d", "e", "f", "g", "h", "f", "e", "g")
    assert [window.targets for window in found] == [4, 4, 1]
    assert [window.tokens for window in found] == [
        ids(S) + tokens[:4],
        tokens[3:8],
        tokens[4:],
    ]
    scored = [token for window in found for token in window.tokens[-window.targets :]]
    assert tuple(scored) == tokens


def test_prompts_lose_their_beginning_and_are_never_empty() -> None:
    tokenizer = PieceTokenizer()
    found = prompts_of(["efgh", "", "ab "], tokenizer, most_tokens=3)
    assert found == [list(ids("f", "g", "h")), [0], list(ids("ab", " "))]


def test_a_choice_may_have_a_context_of_its_own() -> None:
    item = Item(
        id="i",
        cluster="c",
        kind="multiple_choice",
        contexts=("ab", "cd"),
        choices=("e", "e"),
        delimiter=" ",
    )
    assert continuations_of(item) == [Continuation("ab", " e"), Continuation("cd", " e")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"choices": ()}, "item i: expected choices"),
        ({"gold": 2}, "item i: gold is 2, but there are 2 choices"),
        ({"kind": "cloze"}, "item i: a cloze has one choice, found 2"),
        ({"kind": "minimal_pair"}, "item i: the choices of a minimal_pair are whole texts"),
        ({"contexts": ("a",)}, "item i: expected one context for each of 2 choices, found 1"),
        ({"max_new_tokens": 0}, "item i: max_new_tokens is 0"),
    ],
)
def test_an_item_that_makes_no_sense_is_refused_by_name(
    changes: dict[str, Any], message: str
) -> None:
    fields: dict[str, Any] = {"kind": "multiple_choice", "context": "a", "choices": ("b", "c")}
    with pytest.raises(ValueError, match=message):
        Item(id="i", cluster="c", **(fields | changes))
