"""How probable a model holds continuations of texts, and whether it would write them itself.

Shapes: B rows, T tokens of a row, M tokens of a batch after which something is predicted, P
predictions (several after one token, where choices begin), V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from training.causal_model import CausalModel
from training.cross_entropy import float32_slices
from training.items.layout import Row, batches_of, rows_of
from training.items.windows import Window
from training.trees import LogitsOfTrees, Trees


@dataclass(frozen=True, slots=True)
class ContinuationScore:
    """What a model makes of one continuation."""

    nats: float
    """Sum of -log p over its tokens."""
    targets: int
    """Its tokens."""
    is_greedy: bool
    """At each of its tokens no other is likelier."""
    greedy: tuple[int, ...]
    """The likeliest token in place of each, the lowest id of several; empty unless asked for."""


class _Found(NamedTuple):
    """Of each prediction of a batch, arrays of ``[P]``."""

    owners: np.ndarray
    nats: np.ndarray
    is_greedy: np.ndarray
    greedy: np.ndarray
    """-1 where nobody asked."""


@torch.inference_mode()
def score_windows(
    model: CausalModel,
    windows: Sequence[Window],
    *,
    batch_tokens: int,
    precision: Literal["bf16", "fp32"],
    logits_of: LogitsOfTrees | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[ContinuationScore]:
    """Scores of the continuations that the ``windows`` are of, in their order.

    Arguments as of ``training.items.score_items.score_items``.

    Raises:
        ValueError: A token is outside the model's vocabulary.
    """
    _check_vocabulary(windows, model.config.vocab_size)
    rows = rows_of(
        windows,
        width=_width_of(model) if model.takes_trees else None,
        longest=model.config.max_position_embeddings,
    )
    total = sum(len(row.tokens) for row in rows)
    device = model.device.type
    autocast = torch.autocast(device, torch.bfloat16) if precision == "bf16" else nullcontext()
    with autocast:
        logits_of = logits_of or model.logits_of_trees()
    done = 0
    found: list[_Found] = []
    for batch in batches_of(rows, batch_tokens=batch_tokens):
        with autocast:
            found.append(_score_batch(logits_of, batch, model.device))
        done += sum(len(row.tokens) for row in batch)
        if on_progress is not None:
            on_progress(done, total)
    return _by_continuation(windows, found)


def _check_vocabulary(windows: Sequence[Window], vocab_size: int) -> None:
    largest = max((max(window.tokens) for window in windows), default=0)
    if largest >= vocab_size:
        raise ValueError(
            f"expected tokens below {vocab_size}, the model's vocabulary, found {largest}: model "
            "and tokenizer must belong together"
        )


def _width_of(model: CausalModel) -> int:
    # Of other models it only guides the layout.
    return getattr(model.config, "hidden_size", 1024)


def _score_batch(logits_of: LogitsOfTrees, batch: list[Row], device: torch.device) -> _Found:
    length = max(len(row.tokens) for row in batch)
    places_P = np.concatenate([row.sources + number * length for number, row in enumerate(batch)])
    at_M, index_P = np.unique(places_P, return_inverse=True)
    arrays = (
        _padded([row.tokens for row in batch], length, 0),
        _padded([row.positions for row in batch], length, 0),
        _padded([row.ends for row in batch], length, length),
        np.array([len(row.tokens) for row in batch]),
        at_M,
    )
    trees = Trees(*(torch.from_numpy(array).to(device) for array in arrays))
    if not any(row.is_tree for row in batch):
        trees = trees._replace(ends=None)
    return _answers(
        logits_of(trees),
        index_P,
        np.concatenate([row.targets for row in batch]),
        np.concatenate([row.owners for row in batch]),
        tells_greedy=any(row.tells_greedy for row in batch),
    )


def _padded(parts: list[np.ndarray], length: int, fill: int) -> np.ndarray:
    """``int64[B, T]``."""
    padded_BT = np.full((len(parts), length), fill, np.int64)
    for row, part in zip(padded_BT, parts, strict=True):
        row[: len(part)] = part
    return padded_BT


def _answers(
    parts: Iterator[tuple[slice, Tensor]],
    index_P: np.ndarray,
    targets_P: np.ndarray,
    owners_P: np.ndarray,
    *,
    tells_greedy: bool,
) -> _Found:
    """Of the predictions, the ``index_P``-th logits are of each."""
    found = _Found(
        owners=owners_P,
        nats=np.empty(len(index_P), np.float64),
        is_greedy=np.empty(len(index_P), np.bool_),
        greedy=np.full(len(index_P), -1),
    )
    order_P = np.argsort(index_P, kind="stable")
    for part, logits in parts:
        for rows in float32_slices(logits):
            bounds = (part.start + rows.start, part.start + rows.stop)
            first, last = np.searchsorted(index_P, bounds, sorter=order_P)
            here = order_P[first:last]
            index, targets = (
                torch.from_numpy(numbers).to(logits.device)
                for numbers in (index_P[here] - bounds[0], targets_P[here])
            )
            wide_MV = logits[rows].float()
            nats, is_greedy = _nats(wide_MV, index, targets)
            found.nats[here] = nats.double().cpu().numpy()
            found.is_greedy[here] = is_greedy.cpu().numpy()
            if tells_greedy:
                found.greedy[here] = wide_MV.argmax(1)[index].cpu().numpy()
    return found


def _nats(logits_MV: Tensor, index_P: Tensor, targets_P: Tensor) -> tuple[Tensor, Tensor]:
    """-log p of each target, and whether no token is likelier.

    The largest probability is the inverse of the softmax's own sum, and never 0: with it the nats
    are exact without the logarithm of every probability.
    """
    picked_P = logits_MV[index_P, targets_P]
    largest_M = logits_MV.amax(1)
    log_largest_M = torch.softmax(logits_MV, dim=-1).amax(1).log()
    return (largest_M - log_largest_M)[index_P] - picked_P, picked_P >= largest_M[index_P]


def _by_continuation(windows: Sequence[Window], found: list[_Found]) -> list[ContinuationScore]:
    """Sums over the windows of each continuation, whatever batches they were in."""
    if not found:
        return []
    window_P, nats_P, is_greedy_P, greedy_P = (
        np.concatenate(arrays) for arrays in zip(*found, strict=True)
    )
    # Windows are in the order of their continuations, and the predictions of one in theirs.
    order_P = np.argsort(window_P, kind="stable")
    owner_P = np.array([window.continuation for window in windows])[window_P[order_P]]
    starts = np.unique(owner_P, return_index=True)[1]
    greedy = np.split(greedy_P[order_P], starts[1:])
    sums = np.add.reduceat(nats_P[order_P], starts)
    are_greedy = np.logical_and.reduceat(is_greedy_P[order_P], starts)
    return [
        ContinuationScore(
            nats=float(nats),
            targets=len(tokens),
            is_greedy=bool(is_greedy),
            greedy=() if tokens[0] < 0 else tuple(tokens.tolist()),
        )
        for nats, is_greedy, tokens in zip(sums, are_greedy, greedy, strict=True)
    ]
