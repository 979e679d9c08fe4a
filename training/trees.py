"""Rows of tokens in which what several texts begin with is computed once; a value for models."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from torch import Tensor


class Trees(NamedTuple):
    """A batch of rows; each is a tree of tokens in preorder, padded on the right.

    A token sees itself and what it descends from, and its position is its depth: so its hidden
    state is that of the path from the root to it, alone in a row.

    Shapes: B rows, T the most tokens of one, M tokens after which something is predicted.
    """

    tokens: Tensor
    """``int64[B, T]``; any token where a row is padded."""
    positions: Tensor
    """``int64[B, T]``: depth in the tree, 0 where a row is padded."""
    ends: Tensor | None
    """``int64[B, T]``: the descendants of token i are the tokens from i + 1 to ``ends[i] - 1``; T
    where a row is padded. None: each row is a single path."""
    lengths: Tensor
    """``int64[B]``, tokens of a row without padding."""
    at: Tensor
    """``int64[M]``: after which tokens, ascending indices into the rows one after the other."""


LogitsOfTrees = Callable[[Trees], Iterator[tuple[slice, Tensor]]]
"""Logits ``[n, V]`` after the tokens ``at``, without gradients, some at a time.

Which of ``at``, and their logits, in memory that the next may take over."""
