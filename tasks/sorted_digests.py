"""Digests that were seen, 16 bytes each and no more."""

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

_BYTES = 16


class SortedDigests:
    """A set of digests of 16 bytes, as a few sorted runs of which each is larger than the next.

    A Python set takes about a hundred bytes for each.
    """

    def __init__(self) -> None:
        self._runs: list[NDArray[np.bytes_]] = []

    def sorted(self) -> NDArray[np.bytes_]:
        """All of them in order, ``S16[n]``."""
        nothing = np.empty(0, f"S{_BYTES}")
        return np.sort(np.concatenate([nothing, *self._runs]), kind="stable")

    def has(self, digests: Sequence[bytes]) -> NDArray[np.bool_]:
        """Which of ``digests`` are in the set, ``bool[digests]``."""
        wanted = _array(digests)
        found = np.zeros(len(wanted), np.bool_)
        for run in self._runs:
            places = np.minimum(np.searchsorted(run, wanted), len(run) - 1)
            found |= run[places] == wanted
        return found

    def add(self, digests: Collection[bytes]) -> None:
        """Put in digests that are not in the set."""
        if not digests:
            return
        self._runs.append(np.sort(_array(digests)))
        # So that there are never more runs than the binary digits of their number.
        while len(self._runs) > 1 and len(self._runs[-2]) < 2 * len(self._runs[-1]):
            last, before = self._runs.pop(), self._runs.pop()
            self._runs.append(np.sort(np.concatenate([before, last]), kind="stable"))


def _array(digests: Collection[bytes]) -> NDArray[np.bytes_]:
    return np.frombuffer(b"".join(digests), f"S{_BYTES}")
