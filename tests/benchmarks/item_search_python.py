"""The search for task items as it was in Python: words looked up one by one, runs by numpy."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tasks.evaluations.item_grams import BASE, ItemGrams, Place, words_of

_SIEVE_BITS = 20
_SIEVE_SHIFT = np.uint64(64 - _SIEVE_BITS)
_Hashes = NDArray[np.uint64]


class PythonSearch:
    """Finds what ``grams`` finds."""

    def __init__(self, grams: ItemGrams) -> None:
        lexicon = grams.lexicon
        spans = zip(lexicon.ends[:-1], lexicon.ends[1:], strict=True)
        words = [lexicon.codes[start:end].tobytes().decode("utf-32-le") for start, end in spans]
        self._vocabulary = {word: number for number, word in enumerate(words, 1)}
        self._own = grams.own
        lengths = sorted({n for n, _ in grams.own.values()})
        self._wanted = {
            length: np.unique(np.concatenate([own for n, own in grams.own.values() if n == length]))
            for length in lengths
        }
        self._sieves = {length: _sieve(wanted) for length, wanted in self._wanted.items()}
        self._holders: dict[tuple[int, int], list[Place]] = {}
        for place, (n, hashes) in grams.own.items():
            for one in hashes.tolist():
                self._holders.setdefault((n, one), []).append(place)

    def shares_in(self, text: str) -> dict[Place, float]:
        """As ``ItemGrams.shares_in``."""
        counts: Counter[Place] = Counter()
        for n, hashes in self._found_in(text):
            for one in hashes.tolist():
                counts.update(self._holders[n, one])
        return {place: count / len(self._own[place][1]) for place, count in counts.items()}

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
