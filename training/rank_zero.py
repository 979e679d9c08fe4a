"""What one rank finds out, and all must act on alike."""

import json
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist


def told_by_rank_zero(find: Callable[[], Any], device: torch.device) -> Any:
    """What ``find`` returns on rank 0, on every rank. A JSON value; every rank must call this."""
    if not dist.is_initialized():
        return find()
    body = json.dumps(find()).encode() if dist.get_rank() == 0 else b""
    size = torch.tensor(len(body), device=device)
    dist.broadcast(size, src=0)
    message = torch.empty(int(size), dtype=torch.uint8, device=device)
    if body:
        message.copy_(torch.frombuffer(bytearray(body), dtype=torch.uint8))
    dist.broadcast(message, src=0)
    return json.loads(bytes(message.tolist()))
