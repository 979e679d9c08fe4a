"""The search for task items as it was in Python: words looked up one by one, runs by numpy."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tasks.evaluations.escapes import other_readings
from tasks.evaluations.item_grams import BASE, ItemGrams, Place, words_of

_SIEVE_BITS = 20
_SIEVE_SHIFT = np.uint64(64 - _SIEVE_BITS)
_Hashes = NDArray[np.uint64]
_Part = tuple[bool, str, str]
"""Whether it is a question, task and item."""


class PythonSearch:
    """Finds what ``grams`` finds."""

    def __init__(self, grams: ItemGrams) -> None:
        lexicon = grams.lexicon
        spans = zip(lexicon.ends[:-1], lexicon.ends[1:], strict=True)
        words = [lexicon.codes[start:end].tobytes().decode("utf-32-le") for start, end in spans]
        self._vocabulary = {word: number for number, word in enumerate(words, 1)}
        self._parts = {(False, *place): own for place, own in grams.own.items()}
        self._parts |= {(True, *place): own for place, own in grams.questions.items()}
        lengths = sorted({n for n, _ in self._parts.values()})
        self._wanted = {
            length: np.unique(
                np.concatenate([own for n, own in self._parts.values() if n == length])
            )
            for length in lengths
        }
        self._sieves = {length: _sieve(wanted) for length, wanted in self._wanted.items()}
        self._holders: dict[tuple[int, int], list[_Part]] = {}
        for part, (n, hashes) in self._parts.items():
            for one in hashes.tolist():
                self._holders.setdefault((n, one), []).append(part)

    def shares_in(self, text: str) -> dict[Place, float]:
        """As ``ItemGrams.shares_in``."""
        counts: Counter[_Part] = Counter()
        readings = [text, *other_readings(text)]
        every = (found for reading in readings for found in self._found_in(reading))
        for n, one in {(n, one) for n, hashes in every for one in hashes.tolist()}:
            counts.update(self._holders[n, one])
        shares: dict[Place, float] = {}
        for part, count in sorted(counts.items()):
            is_question, task, item = part
            share = count / len(self._parts[part][1])
            if share == 1 or not is_question:
                shares[task, item] = share
        return shares

    def _found_in(self, text: str) -> Iterator[tuple[int, _Hashes]]:
        get = self._vocabulary.get
        ids = np.fromiter((get(word, 0) for word in words_of(text)), np.uint64)
        starts = np.flatnonzero(ids)
        hashes = ids[starts]
        for n in range(1, max(self._wanted, default=0) + 1):
            if n > 1:
                starts = starts[starts < len(ids) - n + 1]
                following = ids[starts + n - 1]
                known = following != 0
                starts = starts[known]
                hashes = hashes[: len(known)][known] * BASE + following[known]
            wanted = self._wanted.get(n)
            if wanted is not None and len(starts):
                there = hashes[self._sieves[n][hashes >> _SIEVE_SHIFT]]
                places = np.minimum(np.searchsorted(wanted, there), len(wanted) - 1)
                yield n, np.unique(there[wanted[places] == there])


def _sieve(wanted: _Hashes) -> NDArray[np.bool_]:
    sieve = np.zeros(1 << _SIEVE_BITS, np.bool_)
    sieve[wanted >> _SIEVE_SHIFT] = True
    return sieve
