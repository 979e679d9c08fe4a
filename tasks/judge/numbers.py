"""The numbers of an update beside its verdict. They are shown and judged by nobody."""

from dataclasses import dataclass

from tasks.evaluations.copies import CopyProbe
from tasks.scoring.calibration import Calibration, TokenChange
from tasks.scoring.forgetting import Forgetting
from tasks.scoring.stability import StabilityGap
from training.drift import Drift


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """What else is known of a candidate; None, or nothing, where it could not be measured."""

    forgetting: Forgetting | None = None
    stability: tuple[StabilityGap, ...] = ()
    drift: Drift | None = None
    """From the champion."""
    calibration: Calibration | None = None
    champion_calibration: Calibration | None = None
    """On the same tokens."""
    token_change: TokenChange | None = None
    """On old text, against the champion."""
    copies: CopyProbe | None = None
    """What the update has by heart."""
