import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.items.layout import Row, batches_of, rows_of
from training.items.windows import Window

TOKENS = st.lists(st.integers(0, 2), min_size=2, max_size=9).map(tuple)


@st.composite
def some_windows(draw: st.DrawFn) -> list[Window]:
    all_tokens = draw(st.lists(TOKENS, min_size=1, max_size=14))
    return [
        Window(number, tokens, draw(st.integers(1, len(tokens) - 1)))
        for number, tokens in enumerate(all_tokens)
    ]


def path_to(row: Row, node: int) -> list[int]:
    """Tokens that ``node`` sees, by the definition of ``ends``."""
    seen = [at for at in range(node + 1) if row.ends[at] > node]
    assert row.positions[seen].tolist() == list(range(len(seen)))
    return row.tokens[seen].tolist()


@settings(max_examples=200, deadline=None)
@given(some_windows(), st.sampled_from([None, 1, 1000]), st.sampled_from([1, 12, 1000]))
def test_every_target_is_predicted_once_from_its_window_alone(
    windows: list[Window], width: int | None, longest: int
) -> None:
    found: dict[int, list[tuple[list[int], int]]] = {number: [] for number in range(len(windows))}
    for row in rows_of(windows, width=width, longest=longest):
        for source, target, owner in zip(row.sources, row.targets, row.owners, strict=True):
            found[int(owner)].append((path_to(row, int(source)), int(target)))
        if width is None:
            assert not row.is_tree
    for number, (_, tokens, targets, _) in enumerate(windows):
        first = len(tokens) - targets
        assert found[number] == [
            (list(tokens[:at]), tokens[at]) for at in range(first, len(tokens))
        ]


@settings(max_examples=50, deadline=None)
@given(some_windows(), st.randoms(use_true_random=False))
def test_the_order_of_the_windows_changes_nothing_but_whose_they_are(
    windows: list[Window], random: np.random.Generator
) -> None:
    order = list(range(len(windows)))
    random.shuffle(order)
    rows = rows_of(windows, width=64, longest=1000)
    others = rows_of([windows[number] for number in order], width=64, longest=1000)
    for row, other in zip(rows, others, strict=True):
        for field in ("tokens", "positions", "ends", "sources", "targets"):
            np.testing.assert_array_equal(getattr(row, field), getattr(other, field))


def test_a_context_is_in_a_row_once_with_all_its_choices() -> None:
    context = tuple(range(10, 40))
    windows = [Window(n, (*context, n, n + 1, n + 2), 3) for n in range(4)]
    (row,) = rows_of(windows, width=64, longest=1000)
    assert len(row.tokens) == len(context) + 4 * 2
    assert row.is_tree


def test_texts_that_share_one_word_are_not_put_into_one_row_without_end() -> None:
    windows = [Window(n, (0, *range(n * 20 + 1, n * 20 + 20)), 19) for n in range(30)]
    rows = rows_of(windows, width=64, longest=10_000)
    # Sharing a token saves as much as attention between 3 * 64 pairs.
    assert max(len(row.tokens) for row in rows) < 3 * 20


def test_a_row_of_several_windows_is_no_longer_than_the_model_has_room_for() -> None:
    windows = [Window(n, (*range(100), 100 + n, 7), 1) for n in range(50)]
    rows = rows_of(windows, width=512, longest=120)
    assert [len(row.tokens) for row in rows] == [120, 120, 110]


@pytest.mark.parametrize("batch_tokens", [1, 64, 10_000])
def test_batches_hold_every_row_once_and_no_more_than_fits(batch_tokens: int) -> None:
    windows = [Window(n, tuple(range(n, n + 3 + n % 9)), 1) for n in range(40)]
    windows += [Window(40 + n, (1, 2, 3, 4, 5, 60 + n, 9), 2) for n in range(5)]
    rows = rows_of(windows, width=64, longest=1000)
    batches = list(batches_of(rows, batch_tokens=batch_tokens))
    assert sorted(id(row) for batch in batches for row in batch) == sorted(map(id, rows))
    for batch in batches:
        assert len({row.is_tree for row in batch}) == 1
        most = max(len(row.tokens) for row in batch)
        assert len(batch) == 1 or len(batch) * most <= batch_tokens
