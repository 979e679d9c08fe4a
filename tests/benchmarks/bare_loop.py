"""The least that trains our decoder: what the engine's bookkeeping is measured against."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from training.cross_entropy import IGNORE_INDEX
from training.decoder.attention import segments_of
from training.hub.directory import load_decoder
from training.loss import targets_of

MICRO_BATCH_SIZE = 8
START_ID = 0


def steps(
    directory: Path,
    batches: Iterator[np.ndarray],
    lrs: Sequence[float],
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    max_grad_norm: float,
) -> Iterator[float]:
    """Yield the mean loss of each step, nats a token."""
    model = load_decoder(directory).train()
    matrices = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    norms = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups = [{"params": matrices}, {"params": norms, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(
        groups, lr=0.0, betas=betas, eps=eps, weight_decay=weight_decay, fused=True
    )
    for batch, lr in zip(batches, lrs, strict=True):
        tokens = torch.from_numpy(batch)
        targets = targets_of(tokens, start_id=START_ID, end_id=START_ID)
        num_valid = int((targets != IGNORE_INDEX).sum())
        total = 0.0
        for rows, wanted in zip(
            tokens.split(MICRO_BATCH_SIZE), targets.split(MICRO_BATCH_SIZE), strict=True
        ):
            inputs = rows[:, :-1]
            with torch.autocast("cpu", torch.bfloat16):
                nats = model(inputs, segments_of(inputs, START_ID), targets=wanted)
            (nats / num_valid).backward()
            total += float(nats.detach())
        nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield total / num_valid
