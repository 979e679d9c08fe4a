"""Texts as the hashes of their units (``characters``): words, or characters without spaces."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tasks.near_duplicates.characters import fold_table, longer_table


def units_of(texts: Sequence[str]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """``uint64[units]`` of all texts, one after the other, and ``int64[texts]`` where each ends.

    All 64 bits of a hash are well mixed. A pure function of each text, on every machine.
    """
    # Not at the top: it imports numba, and a scheduler imports modules that import this one.
    from tasks.near_duplicates.kernel import cut_texts  # noqa: PLC0415

    encoded = [text.encode() for text in texts]
    ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)
    data = np.frombuffer(b"".join(encoded), np.uint8)
    # A word of one ASCII letter and the space after it are the shortest unit.
    units = np.empty(len(data) // 2 + len(texts), np.uint64)
    unit_ends = np.empty(len(texts), np.int64)
    count = cut_texts(data, ends, fold_table(), longer_table(), units, unit_ends)
    return units[:count], unit_ends
