"""The stability gap: how far old text rises while an update re-warms, and when it is back. Pure.

Measured on what every step records anyway, the training loss of the domains that are only replayed:
text that the trunk had learned. It is the loss of fresh batches, so it is noisy; blocks of steps
are averaged, and a rise that the noise explains is none. A checkpoint is judged when its schedule
is over and never inside such a rise (De Lange et al. 2023, arXiv:2205.13452).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from training.config import Mixture
from training.metrics import LOSS, TOKENS_SEEN

_BLOCKS = 40
_FEWEST_BLOCKS = 5
_NOISE_FACTOR = 3.0
"""Standard errors; of forty blocks without a rise, the highest lies some two above the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StabilityGap:
    """One domain that was only replayed, over the training of an update."""

    domain: str
    start: float
    """Training loss at the begin, the mean of the first block, nats per token."""
    peak: float
    end: float
    depth: float
    """Peak above start, nats per token; 0 where the noise explains it."""
    noise: float
    """Standard error of the difference of two blocks, nats per token."""
    peak_tokens: int
    """Tokens seen when the highest block was over."""
    recovery_tokens: int | None
    """Tokens from the begin of the update until it was back, within the noise, after the peak; 0
    without a gap, None when it never was."""


def stability_gaps(
    metrics: Sequence[Mapping[str, Any]], mixture: Mixture
) -> tuple[StabilityGap, ...]:
    """A gap for every domain that the update only replays and that has enough steps to tell.

    A domain that is new as well as old has one curve for both, which says nothing of the old.

    Args:
        metrics: One mapping a step, as ``training.metrics`` names them.
        mixture: What the update was trained on.
    """
    fresh = {stream.domain for stream in mixture.streams if not stream.is_replay}
    replayed = {stream.domain for stream in mixture.streams if stream.is_replay}
    found = (_gap(metrics, domain) for domain in sorted(replayed - fresh))
    return tuple(gap for gap in found if gap is not None)


def _gap(metrics: Sequence[Mapping[str, Any]], domain: str) -> StabilityGap | None:
    points = [
        (int(step[TOKENS_SEEN]), float(step[f"{LOSS}/{domain}"]))
        for step in metrics
        if step.get(f"{LOSS}/{domain}") is not None
    ]
    size = math.ceil(len(points) / _BLOCKS)
    blocks = [points[at : at + size] for at in range(0, len(points) - size + 1, max(1, size))]
    if len(blocks) < _FEWEST_BLOCKS:
        return None
    means = [math.fsum(loss for _, loss in block) / len(block) for block in blocks]
    ends = [block[-1][0] for block in blocks]
    noise = _noise([loss for _, loss in points], size)
    allowed = _NOISE_FACTOR * noise
    top = max(range(len(means)), key=lambda index: means[index])
    depth = means[top] - means[0]
    recovery: int | None = 0
    if depth > allowed:
        back = (ends[i] for i in range(top, len(means)) if means[i] - means[0] <= allowed)
        recovery = next(back, None)
    return StabilityGap(
        domain=domain,
        start=means[0],
        peak=means[top],
        end=means[-1],
        depth=depth if depth > allowed else 0.0,
        noise=noise,
        peak_tokens=ends[top],
        recovery_tokens=recovery,
    )


def _noise(losses: Sequence[float], size: int) -> float:
    """Standard error of the difference of two block means, from the steps' differences.

    A trend hardly moves the difference of two neighbours, so that it is no noise.
    """
    jumps = sorted(abs(after - before) for before, after in pairwise(losses))
    # The median of |N(0, 2 s^2)| is 0.6745 * sqrt(2) * s.
    of_one_step = jumps[len(jumps) // 2] / (0.6745 * math.sqrt(2))
    return of_one_step * math.sqrt(2 / size)
