"""What a tensor's name says of its place in the model, in any family that counts its layers."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Collection

import numpy as np

_LAYER = re.compile(r"(?:^|\.)(\d+)\.")
_NORM = re.compile(r"(?:norm|ln)(?:_?[0-9a-z]+)?$", re.IGNORECASE)
_BEFORE = re.compile(r"emb|wte|wpe")


def layer_of(name: str) -> int | None:
    """Number of the layer that a tensor belongs to; None outside the layers."""
    found = _LAYER.search(name)
    return int(found.group(1)) if found else None


def depth_of(name: str, names: Collection[str]) -> float:
    """0 in the first layer and before it, 1 in the last layer and behind it."""
    last = max((layer for layer in map(layer_of, names) if layer is not None), default=0)
    layer = layer_of(name)
    if layer is None:
        return 0.0 if _BEFORE.search(name) else 1.0
    return layer / last if last else 0.0


def half_of_modules(names: Collection[str], seed: int) -> frozenset[str]:
    """The tensors of about half of the modules of every layer, by kind.

    Of a layer's four matrices of attention two, of the three of its feed-forward part one and two
    in turn, and so of its norms; outside the layers one of embedding and output. Weight and bias of
    a module go together. A pure function of names and seed.
    """
    groups: defaultdict[tuple[int, str], set[str]] = defaultdict(set)
    for name in names:
        module = name.rpartition(".")[0] or name
        layer = layer_of(name)
        groups[-1 if layer is None else layer, _kind_of(module)].add(module)
    taken: set[str] = set()
    for (layer, kind), modules in groups.items():
        digest = hashlib.sha256(f"{seed}/{layer}/{kind}".encode()).digest()
        # Alternating over the layers, begun by the seed: so of odd numbers it is half in the end.
        rounds_up = (layer + hashlib.sha256(f"{seed}/{kind}".encode()).digest()[0]) % 2
        count = (len(modules) + rounds_up) // 2
        order = np.random.default_rng(int.from_bytes(digest[:8], "little"))
        taken.update(order.permutation(sorted(modules))[:count].tolist())
    return frozenset(name for name in names if (name.rpartition(".")[0] or name) in taken)


def _kind_of(module: str) -> str:
    last = module.rpartition(".")[2]
    if _NORM.search(last):
        return "norm"
    if "att" in module:
        return "attention"
    return "other"
