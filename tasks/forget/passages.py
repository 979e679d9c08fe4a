"""Passages of texts as digests: what has one of them holds a part of the text.

A text is spelled in every way in which a store may hold it, and each spelling is cut into windows
of 64 bytes that begin 32 bytes apart. So whatever has 95 bytes of a spelling in a row has a whole
window, wherever it begins. Tokens are cut in the same way, 16 of them every 8: rows of a shard are
never too short for that. Kept are two digests of each window: a rolling one (Rabin and Karp 1987)
that is compared at every byte, and a strong one that confirms it. No text can be made of them.
"""

import hashlib
import html
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import markupsafe
import numpy as np
from numpy.typing import NDArray

from tasks.documents import printable

if TYPE_CHECKING:
    from tasks.forget.search import Table

_WINDOW_BYTES = 64
_WINDOW_TOKENS = 16
_MOST_WINDOWS = 4096
"""Of one spelling; those of a longer one lie further apart."""
_LEAST_BYTES = 24
"""What is shorter is said too often by others to tell anything."""
_LEAST_DISTINCT = 8
"""Different bytes of a window that tells anything."""
BASE = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def windows_of(text: str) -> set[str]:
    """Digests of the windows of a text, in every spelling; empty when it is too short to tell."""
    spelled = {
        text,
        json.dumps(text)[1:-1],
        json.dumps(text, ensure_ascii=False)[1:-1],
        json.dumps(printable(text, len(text)))[1:-1],
        html.escape(text),
        escaped(text),
    }
    return {window for spelling in spelled for window in _cut(spelling.encode(), _WINDOW_BYTES)}


def escaped(text: str) -> str:
    """As the pages of a lineage spell it: their templates write other entities than ``html``."""
    return str(markupsafe.escape(text))


def token_windows_of(tokens: "NDArray[Any] | Sequence[int]") -> set[str]:
    """Digests of the windows of a sequence of tokens, in both widths that shards have."""
    found: set[str] = set()
    for width in (np.dtype("<u2"), np.dtype("<u4")):
        if not len(tokens) or int(max(tokens)) <= np.iinfo(width).max:
            spelling = np.asarray(tokens).astype(width).tobytes()
            found.update(_cut(spelling, _WINDOW_TOKENS * width.itemsize))
    return found


class Passages:
    """Finds windows in bytes. Safe for several threads.

    Args:
        windows: From ``windows_of`` and ``token_windows_of``.
    """

    def __init__(self, windows: Iterable[str]) -> None:
        by_length: dict[int, dict[int, str]] = {}
        for window in windows:
            length, rolling, _ = window.split(":")
            by_length.setdefault(int(length), {})[int(rolling, 16)] = window
        self._windows = by_length
        self._tables: dict[int, Table] = {}

    def __len__(self) -> int:
        return sum(map(len, self._windows.values()))

    @property
    def longest(self) -> int:
        """Bytes of the longest window: of what is searched in pieces, so much comes again."""
        return max(self._windows, default=1)

    def found_in(self, body: "bytes | memoryview") -> set[str]:
        """The windows that stand in ``body``."""
        return {window for window, _ in self.places_in(body)}

    def places_in(self, body: "bytes | memoryview") -> Iterator[tuple[str, int]]:
        """The windows that stand in ``body``, each with its first place."""
        if len(body) < min(self._windows, default=1):
            return
        # Not at the top: it imports numba, which who merely lists takedowns never needs.
        from tasks.forget.search import search, table_of  # noqa: PLC0415

        for length, windows in self._windows.items():
            if length not in self._tables:
                self._tables[length] = table_of(windows, length)
            for rolling, place in search(self._tables[length], body):
                window = windows[rolling]
                if _digest(bytes(body[place : place + length])) == window.rpartition(":")[2]:
                    yield window, place


def _cut(spelling: bytes, length: int) -> Iterator[str]:
    if len(spelling) < _LEAST_BYTES:
        return
    length = min(length, len(spelling))
    last = len(spelling) - length
    starts = list(range(0, last + 1, length // 2))
    if starts[-1] != last:
        starts.append(last)
    if len(starts) > _MOST_WINDOWS:
        starts = [starts[int(at)] for at in np.linspace(0, len(starts) - 1, _MOST_WINDOWS)]
    pieces = [spelling[start : start + length] for start in starts]
    for piece in pieces:
        if len(set(piece)) >= _LEAST_DISTINCT:
            yield f"{length}:{_rolling(piece):016x}:{_digest(piece)}"


def _rolling(piece: bytes) -> int:
    value = 0
    for byte in piece:
        value = (value * BASE + byte + 1) & _MASK
    return value


def _digest(piece: bytes) -> str:
    return hashlib.blake2b(piece, digest_size=16).hexdigest()
