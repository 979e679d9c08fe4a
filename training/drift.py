"""How far the weights of one model lie from another's, layer by layer and part by part.

A large move of the weights often comes before abilities are lost that no held-out loss shows.
Tensors are read and compared one by one: of two models, one tensor each is in memory.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from training.hub.weights import StoredTensor

_DERIVED = "rotary_emb.inv_freq"
"""Written by old versions of transformers; a function of the configuration."""
_PIECE = 1 << 22
"""Elements taken at once, 32 MiB in float64."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartDrift:
    """The tensors of one part of one layer, or those outside the layers, together."""

    layer: int | None
    """From 0; None outside the layers."""
    part: str
    """As the tensors' names have it: ``self_attn``, ``mlp``, ``embed_tokens``."""
    parameters: int
    moved: float | None
    """Euclidean norm of the difference; None where it is not a finite number."""
    norm: float
    """Euclidean norm before."""

    @property
    def relative(self) -> float | None:
        """``moved / norm``; None where everything was 0, or a weight is no number now."""
        return _relative((self,))


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """How far a model moved."""

    parts: tuple[PartDrift, ...]
    """By layer, those outside the layers first."""
    uncompared: tuple[str, ...] = ()
    """Tensors that only one of the two has, or in another shape."""

    @property
    def total(self) -> float | None:
        """``||new - old|| / ||old||`` over all compared weights; None where all were 0."""
        return _relative(self.parts)

    @property
    def by_layer(self) -> dict[int, float | None]:
        """The same of each layer."""
        layers: defaultdict[int, list[PartDrift]] = defaultdict(list)
        for part in self.parts:
            if part.layer is not None:
                layers[part.layer].append(part)
        return {layer: _relative(layers[layer]) for layer in sorted(layers)}


def drift_between(new: Path, old: Path) -> Drift:
    """How far the model of directory ``new`` moved from that of ``old``. Safe to retry.

    Sums are taken in float64. Tied weights count once, as they are stored.

    Raises:
        FileNotFoundError: A directory has no weights.
        ValueError: It has only a pickle, or a file is not whole.
    """
    # Not at the top: it imports torch, and the values above are for everybody.
    from training.hub.weights import stored_tensors  # noqa: PLC0415

    ours, theirs = stored_tensors(new), stored_tensors(old)
    pairs = _paired(ours, theirs)
    squares: defaultdict[tuple[int | None, str], list[tuple[int, float, float]]] = defaultdict(list)
    for name, (after, before) in pairs.items():
        squares[_place(name)].append(_squares(after, before))
    parts = [
        PartDrift(
            layer=layer,
            part=part,
            parameters=sum(count for count, _, _ in found),
            moved=_root(sum(moved for _, moved, _ in found)),
            norm=math.sqrt(sum(norm for _, _, norm in found)),
        )
        for (layer, part), found in squares.items()
    ]
    paired_before = {before.name for _, before in pairs.values()}
    return Drift(
        parts=tuple(sorted(parts, key=lambda found: (found.layer or 0, found.layer is not None))),
        uncompared=tuple(sorted((ours.keys() - pairs.keys()) | (theirs.keys() - paired_before))),
    )


def _paired(
    ours: "Mapping[str, StoredTensor]", theirs: "Mapping[str, StoredTensor]"
) -> "dict[str, tuple[StoredTensor, StoredTensor]]":
    """Tensors of both, by our name.

    Some families are stored with the name of the whole model before every tensor and without it:
    ``transformer.h.0.mlp`` and ``h.0.mlp`` are one.
    """
    pairs: dict[str, tuple[StoredTensor, StoredTensor]] = {}
    for name, after in ours.items():
        without = name.partition(".")[2]
        longer = (known for known in theirs if known.partition(".")[2] == name)
        before = theirs.get(name) or theirs.get(without) or theirs.get(next(longer, ""))
        if before is not None and before.shape == after.shape and not name.endswith(_DERIVED):
            pairs[name] = (after, before)
    return pairs


def _place(name: str) -> tuple[int | None, str]:
    """Layer and part of a tensor, from its name: the first number is the layer."""
    names = name.split(".")
    at = next((index for index, word in enumerate(names) if word.isdigit()), None)
    if at is not None and at + 1 < len(names):
        return int(names[at]), names[at + 1]
    return None, names[-2] if len(names) > 1 else name


def _squares(after: "StoredTensor", before: "StoredTensor") -> tuple[int, float, float]:
    """Parameters, squared norm of the difference, squared norm before."""
    from training.hub.weights import read_tensor  # noqa: PLC0415  torch

    new, old = read_tensor(after).flatten(), read_tensor(before).flatten()
    moved = norm = 0.0
    # In pieces, so that the float64 copies of a large tensor are small.
    for ours, theirs in zip(new.split(_PIECE), old.split(_PIECE), strict=True):
        was = theirs.double()
        norm += float(was.square().sum())
        moved += float((ours.double() - was).square().sum())
    return new.numel(), moved, norm


def _relative(parts: Iterable[PartDrift]) -> float | None:
    moved = norm = 0.0
    for part in parts:
        moved += math.nan if part.moved is None else part.moved**2
        norm += part.norm**2
    return _root(moved / norm) if norm else None


def _root(square: float) -> float | None:
    return math.sqrt(square) if math.isfinite(square) else None
