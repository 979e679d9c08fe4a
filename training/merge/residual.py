"""The instruction residual: an instruct model's difference, grafted onto a newer base.

``new base + scale * (instruct - base)`` (Jindal et al. 2024, arXiv:2410.10739). It is sound as far
as the two changes, what the base learned and what the instruct model was taught, point in unrelated
directions; their cosine by layer says how far.
"""

import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from training.hub.weights import read_tensor
from training.merge.merge import merge
from training.merge.names import layer_of
from training.merge.parents import Parent, check_related
from training.merge.rules import task_arithmetic


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerChange:
    """What became of one layer on both ways."""

    layer: int | None
    """None: embedding, last norm and output."""
    cosine: float | None
    """Between the new base's change and the instruct model's; None where one did not change."""
    drift: float
    """Size of the new base's change, as a share of the base's weights."""
    residual: float
    """The same of the instruct model's."""


def changes_by_layer(base: Parent, instruct: Parent, new_base: Parent) -> tuple[LayerChange, ...]:
    """How both models changed against ``base``, first what lies outside the layers.

    Reads every tensor of the three, one at a time.
    """
    sums: defaultdict[int, list[tuple[float, ...]]] = defaultdict(list)
    for name, stored in base.tensors.items():
        if not stored.form.dtype.is_floating_point:
            continue
        old = read_tensor(stored).float().reshape(-1)
        ours = read_tensor(new_base.tensors[name]).float().reshape(-1) - old
        theirs = read_tensor(instruct.tensors[name]).float().reshape(-1) - old
        layer = layer_of(name)
        sums[-1 if layer is None else layer].append(
            (float(ours @ theirs), float(ours @ ours), float(theirs @ theirs), float(old @ old))
        )
    return tuple(_change(layer, sums[layer]) for layer in sorted(sums))


def graft(
    base: Parent, instruct: Parent, new_base: Parent, directory: Path, *, scale: float = 1.0
) -> None:
    """Write ``new base + scale * (instruct - base)``, in the new base's precision.

    Configuration, tokenizer and chat template are the instruct model's. Taking the residual off
    again gives the new base back to one rounding.

    Raises:
        ValueError: The instruct model, or the new base, does not descend from ``base``.
    """
    for other in (instruct, new_base):
        check_related(base, other)
    parents = [new_base, base, instruct]
    merge(parents, task_arithmetic([scale]), directory, about=instruct.directory)


def _change(layer: int, sums: list[tuple[float, ...]]) -> LayerChange:
    dot, ours, theirs, old = (math.fsum(column) for column in zip(*sums, strict=True))
    return LayerChange(
        layer=None if layer < 0 else layer,
        cosine=dot / math.sqrt(ours * theirs) if ours and theirs else None,
        drift=math.sqrt(ours / old) if old else 0.0,
        residual=math.sqrt(theirs / old) if old else 0.0,
    )
