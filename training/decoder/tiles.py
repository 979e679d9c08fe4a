"""Where attention is computed in bf16 on processors that multiply it in tiles (AMX). No torch."""

from training.processor import processor_flags

LONGEST_TILED_ROW = 512
"""Tokens; beyond it the backward pass of torch's own kernel is as fast as ours."""
SCORES_AT_ONCE = 2**20
"""Of ``training.decoder.tiled_attention``; 4 MiB in float32: two such tensors stay in the caches of
two cores."""


def has_tiles() -> bool:
    """True where attention in bf16 is faster than in float32, which it is not without tiles."""
    return "amx_bf16" in processor_flags()
