"""Silent corruption of weights: what AdamW cannot have done, and replicas that differ.

Of silent corruptions only about 1% end in a number that is not finite (arXiv:2605.04213). Two cheap
looks at all weights every few steps find others:

* The norms of a tensor cannot change faster than AdamW changes its elements. A flipped exponent bit
  that makes one weight larger than all others of its tensor is seen by the largest magnitude.
* Replicas of data parallelism start equal and make equal steps, so they are equal bit by bit. Any
  flipped bit of any of them is seen by a sum over the bits.

One weight that becomes smaller on a single worker is not seen: it does no more harm than a pruned
one.
"""

import logging
import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from training.config import OptimizerConfig
from training.decoder.sharding import is_in_pieces, local_of, num_holders

logger = logging.getLogger(__name__)

CHECK_EVERY_STEPS = 10
"""Steps in which a corruption is found. A check of 54M weights takes 0.07 s of one core."""

_SAFETY = 2.0
"""Above what the bound allows: for moments that come from an update with other betas."""
_ROUNDING = 1e-4
"""Share of a norm that summing in another order may change, with room."""
_LONGEST_MEMORY = 10_000
"""Steps over which the bound of an update is maximised; it has long settled by then."""


@dataclass(frozen=True, slots=True)
class Norms:
    """Of every tensor, in the order of the parameters."""

    largest: list[float]
    """Magnitude."""
    euclidean: list[float]

    @property
    def total(self) -> float:
        """Euclidean norm of all weights."""
        return math.sqrt(math.fsum(norm**2 for norm in self.euclidean))


class WeightCheck:
    """Compares the weights with those of the check before. Every rank calls it at the same steps.

    Args:
        model: Whose weights are watched; sound at this moment.
        optimizer: Bounds what a step may change.
        num_copies: Of the whole model among the ranks, which all have pieces of as many. Ranks that
            hold the same piece are as many apart as a copy has pieces (``training.parallel.grid``).
    """

    def __init__(
        self, model: nn.Module, optimizer: OptimizerConfig, *, num_copies: int = 1
    ) -> None:
        named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._names, self._weights = list(named), list(named.values())
        self._decay = optimizer.weight_decay
        self._reach = _SAFETY * largest_update(optimizer.beta1, optimizer.beta2)
        self._num_copies = num_copies
        self._norms = norms_of(self._pieces)
        self._rates = 0.0

    @property
    def _pieces(self) -> list[Tensor]:
        """What this rank holds; looked up anew, because FSDP2 moves it when it begins."""
        return [local_of(weight.detach()) for weight in self._weights]

    def add_step(self, lr: float) -> None:
        """The optimizer took a step at learning rate ``lr``."""
        self._rates += lr

    def look(self) -> tuple[Norms, str]:
        """The norms of now, and which tensor of which rank is corrupt, empty when none is.

        The finding is the same on every rank.
        """
        pieces = self._pieces
        norms = norms_of(pieces)
        odd = self._first_odd(norms)
        sums = [checksum_of(piece) for piece in pieces] if self._num_copies > 1 else []
        finding = self._agreed(odd, sums)
        if not finding:
            self._norms, self._rates = norms, 0.0
        return norms, finding

    def total_of(self, norms: Norms) -> float:
        """Euclidean norm of all weights, whoever holds them; every rank must call this."""
        if not any(is_in_pieces(weight) for weight in self._weights):
            return norms.total
        num_workers = dist.get_world_size()
        holders = [num_holders(weight, num_workers) for weight in self._weights]
        own = math.fsum(n**2 / held for n, held in zip(norms.euclidean, holders, strict=True))
        total = torch.tensor(own, dtype=torch.float64, device=self._weights[0].device)
        dist.all_reduce(total)
        return math.sqrt(float(total))

    def _first_odd(self, norms: Norms) -> int:
        """Index of the first tensor whose norms moved too far, -1 when there is none."""
        for index, weight in enumerate(self._pieces):
            pairs = (
                (self._norms.largest[index], norms.largest[index], 1.0),
                (self._norms.euclidean[index], norms.euclidean[index], math.sqrt(weight.numel())),
            )
            for before, now, width in pairs:
                step = self._rates * self._reach * width + _ROUNDING * before
                if not before * (1 - self._rates * self._decay) - step <= now <= before + step:
                    logger.error(
                        "a norm of %s went from %g to %g, and %g is the most that the optimizer "
                        "can have changed it",
                        *(self._names[index], before, now, step),
                    )
                    return index
        return -1

    def _agreed(self, odd: int, sums: list[int]) -> str:
        """All ranks' findings in one sentence; one small message, and another after a finding."""
        device = self._weights[0].device
        mine = torch.tensor([odd, _folded(sum(sums))], dtype=torch.int64, device=device)
        everyone = _gathered(mine)
        for rank, (index, _) in enumerate(everyone):
            if index >= 0:
                return f"the weights of {self._names[index]} on rank {rank}"
        if self._num_copies == 1:
            return ""
        num_pieces = len(everyone) // self._num_copies
        for first in range(num_pieces):
            holders = range(first, len(everyone), num_pieces)
            if len({everyone[rank][1] for rank in holders}) > 1:
                rows = _gathered(torch.tensor(sums, dtype=torch.int64, device=device))
                return self._difference({rank: rows[rank] for rank in holders})
        return ""

    def _difference(self, rows: dict[int, list[int]]) -> str:
        """The first tensor that differs between ranks; a rank that is alone with it is named."""
        for name, column in zip(self._names, zip(*rows.values(), strict=True), strict=True):
            ranks: dict[int, list[int]] = {}
            for rank, value in zip(rows, column, strict=True):
                ranks.setdefault(value, []).append(rank)
            if len(ranks) > 1:
                fewest = min(ranks.values(), key=len)
                who = (
                    f"rank {fewest[0]}"
                    if len(fewest) == 1 and len(column) > 2
                    else f"one of ranks {', '.join(str(min(group)) for group in ranks.values())}"
                )
                return f"the weights of {name} on {who}, which differ from the other replicas'"
        raise AssertionError("the sums of all tensors differ, so one of theirs must")


@lru_cache
def largest_update(beta1: float, beta2: float) -> float:
    """How far AdamW can move one weight in one step, in units of the learning rate.

    By Cauchy and Schwarz over all gradients that a weight can have seen in t steps, |m| / sqrt(v)
    is at most (1 - beta1) / sqrt(1 - beta2) times the root of the sum of (beta1^2 / beta2)^i, i
    from 0 to t - 1; times the correction of both biases; the largest of all t. 1.2 for 0.9 and
    0.95, 7.3 for 0.9 and 0.999. (Kingma & Ba 2015, arXiv:1412.6980, section 2.1, give the case of
    one gradient that is not 0.)
    """
    steps = np.arange(1, _LONGEST_MEMORY + 1, dtype=np.float64)
    with np.errstate(over="ignore"):
        memory = np.cumsum((beta1**2 / beta2) ** (steps - 1)) if beta2 else np.ones_like(steps)
    unbiased = np.sqrt(1 - beta2**steps) / (1 - beta1**steps)
    return float(np.max(unbiased * np.sqrt(memory)) * (1 - beta1) / math.sqrt(1 - beta2))


def norms_of(weights: list[Tensor]) -> Norms:
    """Both norms of every tensor, 0 of an empty one; one wait for the device."""
    # aminmax, because foreach_norm of order infinity takes six times as long on a CPU (torch 2.13).
    extremes = torch.stack(
        [
            torch.stack(torch.aminmax(weight)).float() if weight.numel() else weight.new_zeros(2)
            for weight in weights
        ]
    )
    euclidean = torch.stack(list(torch._foreach_norm(weights))).float()  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
    return Norms(extremes.abs().amax(1).tolist(), euclidean.tolist())


def checksum_of(weight: Tensor) -> int:
    """Sum of the tensor's bits as 64-bit integers, modulo 2^64: one flipped bit always shows."""
    bits = weight.detach().contiguous().view(-1).view(torch.uint8)
    whole = bits.numel() // 8 * 8
    total = int(bits[:whole].view(torch.int64).sum()) + int(bits[whole:].sum())
    return _folded(total)


def _folded(total: int) -> int:
    """``total`` modulo 2^64, as a signed integer."""
    return (total + 2**63) % 2**64 - 2**63


def _gathered(mine: Tensor) -> list[list[int]]:
    """Every rank's numbers."""
    if not dist.is_initialized():
        return [mine.tolist()]
    everyone = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(everyone, mine)
    return [numbers.tolist() for numbers in everyone]
