"""How a model of ``transformers`` computes rows in which several documents lie.

Attention must never cross documents, and positions must restart with each. Families take that in
different ways, and some ignore it silently; so which way is right is found by trying, on the model
itself, when it is imported; and tried again, with the weights of the day, before it is used.

Shapes: B rows, T positions, V vocabulary, D documents.
"""

import inspect
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from training.config import ForeignConfig
from training.decoder.attention import positions_of, segment_mask, tree_mask
from training.trees import Trees

logger = logging.getLogger(__name__)

Packing = Literal["positions", "mask", "rows"]
"""``positions``: transformers sees by restarting positions where a document begins. ``mask``: it is
given positions and a mask. ``rows``: every document gets a row of its own, padded on the right."""

_PROBE_LENGTHS = ((5, 1, 9), (2, 1, 1, 11))
_TOLERANCE = 1e-3
"""Of the largest logit; rounding is less than 1e-5."""
_TREE_TOLERANCE = 1e-4
"""Of the largest logit: what items are scored by."""
_BRANCHING, _SECOND_BRANCH = 5, 9
"""Of the probe's tokens: where its two branches begin."""
_LEAST_INFLUENCE = 2e-3
"""Of the largest logit, for a leak to be told from rounding."""
_SHARE_OF_INFLUENCE = 0.02
# float32's own least number is minus infinity in bf16.
_MASKED = float(torch.finfo(torch.bfloat16).min)


def packed_logits(network: nn.Module, tokens: Tensor, segments: Tensor, packing: Packing) -> Tensor:
    """Logits ``[B, T, V]`` of ``tokens``, each segment on its own; both are ``int64[B, T]``."""
    if packing == "positions":
        return plain_logits(network, tokens, position_ids=positions_of(segments))
    if packing == "mask":
        mask = torch.zeros((), device=tokens.device).where(segment_mask(segments), _MASKED)
        positions = positions_of(segments)
        return plain_logits(network, tokens, position_ids=positions, attention_mask=mask)
    return _logits_of_rows(network, tokens, segments)


def tree_logits(network: nn.Module, trees: Trees) -> Tensor:
    """Logits ``[B, T, V]`` of rows that are trees."""
    if trees.ends is None:
        return plain_logits(network, trees.tokens)
    queries = torch.arange(trees.tokens.shape[1], device=trees.tokens.device)[None]
    seen = tree_mask(trees.positions, trees.ends, queries)
    mask = torch.zeros((), device=seen.device).where(seen, _MASKED)
    return plain_logits(network, trees.tokens, position_ids=trees.positions, attention_mask=mask)


@torch.no_grad()
def takes_trees(network: nn.Module, config: ForeignConfig) -> bool:
    """Whether ``tree_logits`` of two branches are those of each path alone; found by trying."""
    if "mask" not in _candidates(network, json.loads(config.fields)):
        return False
    tokens, _ = _probe(config.vocab_size, next(network.parameters()).device)
    rows, length = tokens.shape
    at = torch.arange(length, device=tokens.device)
    is_second = at >= _SECOND_BRANCH
    ends = torch.full_like(at, length).masked_fill_((at >= _BRANCHING) & ~is_second, _SECOND_BRANCH)
    trees = Trees(
        tokens=tokens,
        positions=(at - is_second * (_SECOND_BRANCH - _BRANCHING)).expand(rows, -1),
        ends=ends.expand(rows, -1),
        lengths=torch.full((rows,), length, device=tokens.device),
        at=at,
    )
    second = torch.cat((tokens[:, :_BRANCHING], tokens[:, _SECOND_BRANCH:]), dim=1)
    with torch.autocast(tokens.device.type, enabled=False):
        first_logits = plain_logits(network, tokens[:, :_SECOND_BRANCH])
        second_logits = plain_logits(network, second)[:, _BRANCHING:]
        expected = torch.cat((first_logits, second_logits), dim=1)
        influence = _influence(network, tokens, config.vocab_size)
        error = _difference(expected, lambda: tree_logits(network, trees))
    largest = float(expected.abs().max())
    return (
        influence >= _LEAST_INFLUENCE * largest
        and error <= _SHARE_OF_INFLUENCE * influence
        and error <= _TREE_TOLERANCE * largest
    )


def plain_logits(network: nn.Module, tokens: Tensor, **arguments: Tensor) -> Tensor:
    """Logits ``[B, T, V]``, each row one document unless the ``arguments`` say otherwise."""
    return network(input_ids=tokens, use_cache=False, **arguments).logits


@torch.no_grad()
def find_packing(network: nn.Module, config: ForeignConfig) -> Packing:
    """The quickest way that gives every document the logits that it has alone.

    A model whose tokens hardly heed each other, as with weights that begin at zero, cannot show
    what crosses a document; it gets ``rows``, which is right for every causal model.

    Args:
        network: With its weights, in evaluation mode.
        config: Of it; its own ``packing`` is not heeded.
    """
    tokens, segments = _probe(config.vocab_size, next(network.parameters()).device)
    with torch.autocast(tokens.device.type, enabled=False):
        expected = _each_alone(network, tokens, segments)
        influence = _influence(network, tokens, config.vocab_size)
        if influence < _LEAST_INFLUENCE * float(expected.abs().max()):
            return "rows"
        for packing in _candidates(network, json.loads(config.fields)):
            error = _error(expected, network, tokens, segments, packing)
            if error <= _SHARE_OF_INFLUENCE * influence:
                return packing
    return "rows"


@torch.no_grad()
def check_packing(network: nn.Module, config: ForeignConfig) -> None:
    """Compare packed documents with each alone.

    Raises:
        ValueError: They differ, or the same input gives different logits each time.
    """
    tokens, segments = _probe(config.vocab_size, next(network.parameters()).device)
    with torch.autocast(tokens.device.type, enabled=False):
        expected = _each_alone(network, tokens, segments)
        _check_repeatable(network, config.model_type, tokens, segments, expected)
        error = _error(expected, network, tokens, segments, config.packing)
    # Both are then nothing but rounding where no weight gives the past any influence.
    if error > _TOLERANCE * float(expected.abs().max()):
        raise ValueError(
            f"a {config.model_type} model gives a token other logits when other documents are in "
            f"its row (packed by {config.packing}): expected a causal language model; choose "
            "another base model"
        )


def _check_repeatable(
    network: nn.Module,
    model_type: str,
    tokens: Tensor,
    segments: Tensor,
    expected: Tensor,
) -> None:
    versions = [parameter._version for parameter in network.parameters()]
    again = _each_alone(network, tokens, segments)
    found = [parameter._version for parameter in network.parameters()]
    refusals = (
        (not expected.isfinite().all(), "gave logits that are not finite: its weights are damaged"),
        (
            not torch.equal(expected, again),
            "gave different logits for the same tokens: something in it is random, so that an "
            "interrupted run could not be continued exactly",
        ),
        (versions != found, "changes its own weights when it computes, so they cannot be trained"),
    )
    for is_refused, reason in refusals:
        if is_refused:
            raise ValueError(f"a {model_type} model {reason}; choose another base model")


def _candidates(network: nn.Module, fields: dict[str, Any]) -> tuple[Packing, ...]:
    takes_positions = "position_ids" in inspect.signature(network.forward).parameters
    # Linear biases are rounded at absolute positions, which a short probe does not show.
    has_biases = bool(fields.get("alibi"))
    # A mask that is given takes the place of the family's own, window included.
    has_window = fields.get("sliding_window") is not None
    if has_biases or not takes_positions:
        return ("rows",)
    return ("positions", "rows") if has_window else ("positions", "mask", "rows")


def _error(
    expected: Tensor, network: nn.Module, tokens: Tensor, segments: Tensor, packing: Packing
) -> float:
    """Largest difference from ``expected``; infinite where the family does not know such input."""
    return _difference(expected, lambda: packed_logits(network, tokens, segments, packing))


def _difference(expected: Tensor, compute: Callable[[], Tensor]) -> float:
    try:
        found = compute()
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        # A family that knows no positions, or masks of another shape, says so in many ways.
        logger.debug("not possible: %s", error)
        return float("inf")
    return float((found - expected).abs().max()) if found.shape == expected.shape else float("inf")


def _influence(network: nn.Module, tokens: Tensor, vocab_size: int) -> float:
    """How much the first token of a row changes the logits of those after it."""
    others = tokens.clone()
    others[:, 0] = (tokens[:, 0] + 1) % vocab_size
    changes = plain_logits(network, others) - plain_logits(network, tokens)
    return float(changes[:, 1:].abs().max())


def _probe(vocab_size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Random tokens in documents of several lengths, some of a single token."""
    generator = torch.Generator("cpu").manual_seed(0)
    segments_BT = torch.stack(
        [
            torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
            for lengths in _PROBE_LENGTHS
        ]
    )
    tokens_BT = torch.randint(vocab_size, segments_BT.shape, generator=generator)
    return tokens_BT.to(device), segments_BT.to(device)


def _each_alone(network: nn.Module, tokens: Tensor, segments: Tensor) -> Tensor:
    parts: list[Tensor] = []
    for row, numbers in zip(tokens, segments, strict=True):
        lengths = torch.bincount(numbers).tolist()
        parts += [plain_logits(network, document[None])[0] for document in row.split(lengths)]
    return torch.cat(parts).unflatten(0, tokens.shape)


def _logits_of_rows(network: nn.Module, tokens: Tensor, segments: Tensor) -> Tensor:
    opens_BT = positions_of(segments) == 0
    starts_D = opens_BT.flatten().nonzero().squeeze(1)
    ends_D = torch.cat((starts_D[1:], starts_D.new_tensor([tokens.numel()])))
    flat_N = tokens.flatten()
    logits: list[Tensor] = []
    where: list[Tensor] = []
    for group in _groups((ends_D - starts_D).tolist(), tokens.numel()):
        first, last = starts_D[group][:, None], ends_D[group][:, None]
        index_DL = first + torch.arange(int((last - first).max()), device=tokens.device)
        is_real_DL = index_DL < last
        # What pads a row repeats a token of the batch: no real token sees it, causality forbids.
        rows_DL = flat_N[index_DL.clamp_max(tokens.numel() - 1)]
        logits.append(plain_logits(network, rows_DL)[is_real_DL])
        where.append(index_DL[is_real_DL])
    return torch.cat(logits)[torch.cat(where).argsort()].unflatten(0, tokens.shape)


def _groups(lengths: list[int], most_tokens: int) -> Iterator[list[int]]:
    """Numbers of documents, longest first, a batch of at most ``most_tokens`` with its padding."""
    group: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda number: (-lengths[number], number)):
        if group and (len(group) + 1) * lengths[group[0]] > most_tokens:
            yield group
            group = []
        group.append(number)
    yield group
