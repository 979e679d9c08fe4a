"""Rows in which what several windows begin with is computed once.

Windows are sorted, and each goes on where it leaves the one before: a row is a tree of tokens in
preorder, see ``training.trees``. The context of an item with its choices is such a tree, and so are
few-shot examples with all the questions that follow them. The layout is a function of the set of
windows alone.

Shapes: T tokens of a row, P predictions of a row.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from training.items.windows import Window


@dataclass(frozen=True, slots=True)
class Row:
    """A tree of tokens and what is predicted from them."""

    tokens: np.ndarray
    """``int64[T]``."""
    positions: np.ndarray
    """``int64[T]``: depth in the tree."""
    ends: np.ndarray
    """``int64[T]``: token ``i`` is seen by tokens ``i`` to ``ends[i] - 1``, its descendants."""
    sources: np.ndarray
    """``int64[P]``: after which token of the row."""
    targets: np.ndarray
    """``int64[P]``: token that is predicted."""
    owners: np.ndarray
    """``int64[P]``: index of the window that it is of."""
    tells_greedy: bool
    """Whether a window asks for the likeliest tokens."""

    @property
    def is_tree(self) -> bool:
        """Whether some token does not see all that is before it."""
        return bool((self.ends != len(self.tokens)).any())


def rows_of(windows: Sequence[Window], *, width: int | None, longest: int) -> list[Row]:
    """Every window in one row, those that begin alike in the same.

    Args:
        windows: In any order.
        width: Of the model's hidden states. It tells what sharing is worth: a row of T tokens
            costs T * T pairs in attention, as its mask is dense, and a token that is computed again
            costs the products of a layer, about as much as 3 pairs for each number of the width.
            None: the model takes no trees, so that a row is shared only by windows of which each
            goes on where the one before ends.
        longest: Most tokens of a row of several windows; some families have no room for more.
    """
    rows: list[Row] = []
    row: _GrowingRow | None = None
    for number in sorted(range(len(windows)), key=lambda number: windows[number][1:]):
        window = windows[number]
        shared = 0 if row is None else row.shared_with(window)
        # Of rows that begin with s shared tokens and then have n others, all together are cheapest
        # with n * n = s * (s + 3 * width).
        most = 0 if width is None else math.sqrt(shared * (shared + 3 * width))
        size = 0 if row is None else row.size + len(window.tokens) - 1 - shared
        if row is None or row.size - shared > most or size > longest:
            if row is not None:
                rows.append(row.finish())
            row, shared = _GrowingRow(), 0
        row.add(number, window, shared)
    return rows if row is None else [*rows, row.finish()]


def batches_of(rows: Sequence[Row], *, batch_tokens: int) -> Iterator[list[Row]]:
    """Rows of nearly one length, longest first, as many as ``batch_tokens`` hold padded."""
    batch: list[Row] = []
    for row in sorted(rows, key=lambda row: (row.is_tree, -len(row.tokens))):
        if batch and (
            (len(batch) + 1) * len(batch[0].tokens) > batch_tokens
            or row.is_tree != batch[0].is_tree
        ):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


class _GrowingRow:
    """A row to which windows are added in sorted order."""

    def __init__(self) -> None:
        self.size = 0
        self._tells_greedy = False
        self._last: np.ndarray = np.empty(0, np.int64)
        self._path: np.ndarray = np.empty(0, np.int64)
        self._tokens: list[np.ndarray] = []
        self._positions: list[np.ndarray] = []
        self._closed: list[tuple[np.ndarray, int]] = []
        self._predictions: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def shared_with(self, window: Window) -> int:
        """Inputs that ``window`` has in common with the one added last."""
        length = min(len(self._last), len(window.tokens) - 1)
        differs = self._last[:length] != np.array(window.tokens[:length])
        return int(differs.argmax()) if differs.any() else length

    def add(self, number: int, window: Window, shared: int) -> None:
        """The ``number``-th window, whose first ``shared`` inputs are those of the one before."""
        tokens = np.array(window.tokens, np.int64)
        inputs = tokens[:-1]
        self._closed.append((self._path[shared:], self.size))
        new = np.arange(self.size, self.size + len(inputs) - shared)
        self._path = np.concatenate((self._path[:shared], new))
        self._tokens.append(inputs[shared:])
        self._positions.append(np.arange(shared, len(inputs)))
        sources, targets = self._path[-window.targets :], tokens[-window.targets :]
        self._predictions.append((sources, targets, np.full_like(targets, number)))
        self._tells_greedy |= window.tells_greedy
        self.size += len(new)
        self._last = inputs

    def finish(self) -> Row:
        """What has grown."""
        ends = np.full(self.size, self.size)
        for nodes, end in self._closed:
            ends[nodes] = end
        sources, targets, owners = (
            np.concatenate(parts) for parts in zip(*self._predictions, strict=True)
        )
        return Row(
            tokens=np.concatenate(self._tokens),
            positions=np.concatenate(self._positions),
            ends=ends,
            sources=sources,
            targets=targets,
            owners=owners,
            tells_greedy=self._tells_greedy,
        )
