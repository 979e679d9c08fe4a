"""Finding many windows of bytes in one pass, compiled."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.compiled import compiled
from tasks.forget.passages import BASE

_FILTER_BITS = 20
_SPREAD = 0xD6E8FEB86659FD93


@dataclass(frozen=True, slots=True)
class Table:
    """Windows of one length, to be found by their rolling digests."""

    rolling: NDArray[np.uint64]
    """Sorted."""
    is_possible: NDArray[np.bool_]
    """By the first bits of a spread digest: nearly all of what is read ends here."""
    length: int
    highest: int
    """What the byte that leaves a window counted, modulo 2**64."""


def table_of(rolling: Iterable[int], length: int) -> Table:
    """The windows with these rolling digests."""
    values = np.array(sorted(rolling), np.uint64)
    is_possible = np.zeros(1 << _FILTER_BITS, np.bool_)
    is_possible[(values * np.uint64(_SPREAD)) >> np.uint64(64 - _FILTER_BITS)] = True
    return Table(values, is_possible, length, pow(BASE, length, 1 << 64))


def search(table: Table, body: "bytes | memoryview") -> Iterator[tuple[int, int]]:
    """Rolling digests that stand in ``body``, each with its first place."""
    places = np.full(len(table.rolling), -1, np.int64)
    data = np.frombuffer(body, np.uint8)
    if len(data) >= table.length:
        _search(
            data,
            table.length,
            np.uint64(table.highest),
            np.uint64(BASE),
            np.uint64(_SPREAD),
            table.is_possible,
            table.rolling,
            places,
        )
    for index in np.flatnonzero(places >= 0).tolist():
        yield int(table.rolling[index]), int(places[index])


@compiled
def _search(
    data: Any,
    length: Any,
    highest: Any,
    base: Any,
    spread: Any,
    is_possible: Any,
    rolling: Any,
    places: Any,
) -> Any:
    """Set ``places[i]`` to where the window ``rolling[i]`` stands first.

    Args:
        data: ``uint8[n]``, at least ``length``.
        length: Bytes of a window.
        highest: ``base ** length``.
        base: Of the polynomial.
        spread: Odd; its product's first bits are looked up in ``is_possible``.
        is_possible: ``bool[2**20]``.
        rolling: ``uint64[windows]``, sorted.
        places: ``int64[windows]``, -1.
    """
    value = np.uint64(0)
    one, shift = np.uint64(1), np.uint64(44)
    for index in range(len(data)):
        value = value * base + np.uint64(data[index]) + one
        if index >= length:
            value -= (np.uint64(data[index - length]) + one) * highest
        if index >= length - 1 and is_possible[np.int64((value * spread) >> shift)]:
            found = np.searchsorted(rolling, value)
            if found < len(rolling) and rolling[found] == value and places[found] < 0:
                places[found] = index - length + 1
