"""What is computed again has the same bits, and less is kept."""

import collections
from typing import Any, Literal

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.training.families import config_of, tokens_of
from training.decoder.attention import segments_of
from training.decoder.model import Decoder
from training.parallel.recompute import recompute
from training.parallel.spread import blocks_of

Kind = Literal["none", "selective", "full"]
KINDS: tuple[Kind, ...] = ("none", "selective", "full")
NUM_LAYERS = 3


class Counter(TorchDispatchMode):
    """Counts operations by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: collections.Counter[str] = collections.Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def backward_of(
    kind: Kind, precision: torch.dtype
) -> tuple[collections.Counter[str], list[torch.Tensor]]:
    """What a backward pass computes, and all gradients."""
    model = Decoder(config_of("qwen3 biases, window", num_layers=NUM_LAYERS), seed=1)
    for block in blocks_of(model):
        if kind != "none":
            recompute(block, kind)
    tokens = tokens_of(2, 24)
    tokens[0, 9] = 0
    with torch.autocast("cpu", torch.bfloat16, enabled=precision is torch.bfloat16):
        nats, _ = model.summed_nats(tokens, segments_of(tokens, 0), tokens.roll(-1, 1))
    with Counter() as counter:
        nats.backward()
    return counter.counts, [p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_gradients_are_the_same_bits_whatever_is_computed_again(precision: torch.dtype) -> None:
    _, expected = backward_of("none", precision)
    for kind in KINDS[1:]:
        _, gradients = backward_of(kind, precision)
        assert len(gradients) == len(expected)
        assert all(torch.equal(ours, own) for ours, own in zip(gradients, expected, strict=True))


def test_selective_computes_no_product_again_and_full_computes_all() -> None:
    none, selective, full = (backward_of(kind, torch.float32)[0] for kind in KINDS)
    products = {"mm", "addmm", "_scaled_dot_product_flash_attention_for_cpu"}
    assert [counts["silu"] for counts in (none, selective, full)] == [0, NUM_LAYERS, NUM_LAYERS]
    assert {name: selective[name] for name in products} == {name: none[name] for name in products}
    # Those with a bias: queries, keys and values in one, and the output of attention.
    assert full["addmm"] - none["addmm"] == 2 * NUM_LAYERS
    assert full["mm"] > none["mm"]
    assert full["_scaled_dot_product_flash_attention_for_cpu"] == NUM_LAYERS


def test_the_layers_of_a_model_are_what_is_computed_again() -> None:
    model = Decoder(config_of("llama untied", num_layers=3))
    assert blocks_of(model) == list(model.model.layers)
