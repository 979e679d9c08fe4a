"""Blocks that compute their activations again in the backward pass instead of keeping them.

(Chen et al. 2016, arXiv:1604.06174.) Nothing in a block is random, so the gradients have the same
bits.
"""

from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

_aten: Any = torch.ops.aten
_KEPT = [
    _aten.mm.default,
    _aten.addmm.default,
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
]
"""What ``selective`` keeps: dear to compute, and of the width of a layer. Not the products inside
an attention that is not fused, whose results are as wide as the sequence is long."""


def recompute(block: nn.Module, kind: Literal["selective", "full"]) -> None:
    """Make ``block`` keep its inputs only, or with ``selective`` those and what is dear.

    Its parameters keep their names. Call it before the block is sharded, so that what a shard needs
    from the others is there when the block computes again.
    """
    contexts: dict[str, Any] = {}
    if kind == "selective":
        contexts["context_fn"] = partial(create_selective_checkpoint_contexts, _KEPT)
    inner = block.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        return checkpoint(
            inner, *args, use_reentrant=False, preserve_rng_state=False, **contexts, **kwargs
        )

    block.forward = forward
