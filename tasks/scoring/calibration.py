"""Does a model know how sure it may be, and what moved beneath a mean: token by token. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_BINS = 10
WORSE_NATS = 0.1
"""A token counts as worse when it costs more than this on top."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationBin:
    """Tokens of which the model was about equally sure."""

    targets: int
    confidence: float
    """Mean probability of the likeliest token."""
    accuracy: float
    """How often that token came."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """How sure a model is of the next token against how often it is right, on held-out text."""

    targets: int
    expected_error: float
    """Expected calibration error: mean of ``|confidence - accuracy|`` over the bins, weighted by
    their targets (Guo et al. 2017, arXiv:1706.04599); 0 is perfect."""
    confidence: float
    accuracy: float
    bins: tuple[CalibrationBin, ...]
    """Ten of equal width in confidence, ascending, without those that are empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenChange:
    """Candidate minus champion, token by token on the same old text, in nats.

    A mean can fall although most tokens got worse, when a few gain much.
    """

    targets: int
    mean: float
    median: float
    worse_share: float
    """Tokens that cost more than ``WORSE_NATS`` more than before."""
    better_share: float
    """Tokens that cost more than ``WORSE_NATS`` less."""


def calibration_of(confidence: Sequence[float], is_right: Sequence[bool]) -> Calibration | None:
    """Calibration of one model; None without a target.

    Args:
        confidence: Probability of the likeliest token, by target.
        is_right: Whether that token came, by target.
    """
    if not confidence:
        return None
    sure, right = np.asarray(confidence), np.asarray(is_right, dtype=np.float64)
    numbers = np.minimum((sure * _BINS).astype(np.int64), _BINS - 1)
    bins = [
        CalibrationBin(
            targets=int(inside.sum()),
            confidence=float(sure[inside].mean()),
            accuracy=float(right[inside].mean()),
        )
        for inside in (numbers == number for number in range(_BINS))
        if inside.any()
    ]
    return Calibration(
        targets=sure.size,
        expected_error=sum(b.targets * abs(b.confidence - b.accuracy) for b in bins) / sure.size,
        confidence=float(sure.mean()),
        accuracy=float(right.mean()),
        bins=tuple(bins),
    )


def token_change_of(
    candidate: NDArray[np.float64], champion: NDArray[np.float64]
) -> TokenChange | None:
    """What moved, both ``[N]`` nats of the same tokens; None without one."""
    if not candidate.size:
        return None
    change = candidate - champion
    return TokenChange(
        targets=change.size,
        mean=float(change.mean()),
        median=float(np.median(change)),
        worse_share=float((change > WORSE_NATS).mean()),
        better_share=float((change < -WORSE_NATS).mean()),
    )
