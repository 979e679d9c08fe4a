"""Texts through the near-duplicate screen, as a refresh sends them: batch by batch."""

from collections.abc import Sequence

import numpy as np

from tasks.near_duplicates.config import NearDuplicateConfig
from tasks.near_duplicates.screen import NearDuplicateScreen
from tasks.near_duplicates.signatures import signatures_of


def screened(
    screen: NearDuplicateScreen,
    config: NearDuplicateConfig,
    texts: Sequence[str],
    at_once: int = 4096,
    first_row: int = 0,
) -> list[str]:
    """Why each text is dropped, "" for what is kept."""
    reasons: list[str] = []
    for first in range(0, len(texts), at_once):
        batch = texts[first : first + at_once]
        rows = np.arange(first, first + len(batch)) + first_row
        reasons += screen.reasons(signatures_of(batch, config.scheme), rows)
    return reasons
