"""Where attention is computed in bf16 on processors that multiply it in tiles (AMX). No torch."""

from functools import cache
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")


@cache
def has_tiles() -> bool:
    """True where attention in bf16 is faster than in float32, which it is not without tiles."""
    return _CPUINFO.is_file() and "amx_bf16" in _CPUINFO.read_text(encoding="utf-8").split()


LONGEST_TILED_ROW = 512
"""Tokens; beyond it the backward pass of torch's own kernel is as fast as ours."""
SCORES_AT_ONCE = 2**20
"""Of ``training.decoder.tiled_attention``; 4 MiB in float32: two such tensors stay in the caches of
two cores."""
