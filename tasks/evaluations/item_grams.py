"""What of task items is looked for in text, and how much of an item a text has.

Whole items of a few words, and 13-grams of long ones, whatever case, punctuation and line breaks
(the n-gram rule of Brown et al. 2020, arXiv:2005.14165, section 4), but that one shared 13-gram is
no evidence: templates, licences and quotations share many. An item is there when half of the
n-grams that are its own stand in the text. Of an item between the two, n is half of its words, so
that three quarters of it suffice. Chinese and Japanese have no spaces between words: there
a character counts as a word.

What this does not see: paraphrases, translations, and items of fewer than five words.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile

import numpy as np
from numpy.typing import NDArray

from tasks.evaluations.frozen import FrozenItem

COVERED = 0.5
"""An item is known when this share of its distinctive n-grams stands in the text."""
_MOST_N = 13
"""Words of an n-gram."""
_WHOLE_WORDS = 15
"""Shorter items are looked for as a whole."""
_LEAST_WORDS = 5
"""Shorter items are found in any text."""
_LEAST_CHARACTERS = 10
"""The same of what is written without spaces: about as many words."""
_TEMPLATE_ITEMS = 8
"""Fewer items may begin alike by chance, and nothing is taken for a template."""
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
"""Kana and ideographs (Unicode 16, blocks of scripts Hiragana, Katakana and Han)."""
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
_IS_UNSPACED = re.compile(f"[{_UNSPACED}]")
_BASE = np.uint64(0x9E3779B97F4A7C15)
_SIEVE_BITS = 20
_SIEVE_SHIFT = np.uint64(64 - _SIEVE_BITS)

_Hashes = NDArray[np.uint64]
_Own = tuple[int, _Hashes]
"""Length in words and hashes of an item's n-grams."""
Place = tuple[str, str]
"""Task and item."""


def words_of(text: str) -> list[str]:
    """The words of ``text``, folded to lower case; ideographs and kana one by one."""
    return _WORD.findall(text.lower())


class ItemGrams:
    """The n-grams of the items of several tasks, to be looked for in any number of texts.

    Args:
        tasks: Items by the name of their task.
    """

    def __init__(self, tasks: Mapping[str, Sequence[FrozenItem]]) -> None:
        self._vocabulary: dict[str, int] = {}
        self.own: dict[Place, _Own] = {
            (task, item): grams
            for task, items in tasks.items()
            for item, grams in _grams_of(items, self._vocabulary).items()
        }
        """Of each item that is long enough."""
        lengths = sorted({n for n, _ in self.own.values()})
        self._wanted = {
            length: np.unique(np.concatenate([own for n, own in self.own.values() if n == length]))
            for length in lengths
        }
        self._sieves = {length: _sieve(wanted) for length, wanted in self._wanted.items()}
        self._holders: dict[tuple[int, int], list[Place]] = {}
        for place, (n, hashes) in self.own.items():
            for one in hashes.tolist():
                self._holders.setdefault((n, one), []).append(place)

    def found_in(self, text: str) -> Iterator[tuple[int, _Hashes]]:
        """The n-grams of ``text`` that any item has, by their length in words, each once."""
        get = self._vocabulary.get
        ids = np.fromiter((get(word, 0) for word in words_of(text)), np.uint64)
        starts = np.flatnonzero(ids)
        hashes = ids[starts]
        for n in range(1, max(self._wanted, default=0) + 1):
            if n > 1:
                # Runs of words that all stand in items, one word longer than before.
                starts = starts[starts < len(ids) - n + 1]
                following = ids[starts + n - 1]
                known = following != 0
                starts = starts[known]
                hashes = hashes[: len(known)][known] * _BASE + following[known]
            wanted = self._wanted.get(n)
            if wanted is not None and len(starts):
                there = hashes[self._sieves[n][hashes >> _SIEVE_SHIFT]]
                places = np.minimum(np.searchsorted(wanted, there), len(wanted) - 1)
                yield n, np.unique(there[wanted[places] == there])

    def shares_in(self, text: str) -> dict[Place, float]:
        """Of every item of which ``text`` has anything, the share of its n-grams that it has."""
        counts: Counter[Place] = Counter()
        for n, hashes in self.found_in(text):
            for one in hashes.tolist():
                counts.update(self._holders[n, one])
        return {place: count / len(self.own[place][1]) for place, count in counts.items()}


def _grams_of(items: Sequence[FrozenItem], vocabulary: dict[str, int]) -> dict[str, _Own]:
    """Of each item that is long enough, the length and hashes of its distinctive n-grams.

    Fills ``vocabulary`` with numbers for the words.
    """
    words = {item.item.id: words_of(item.text) for item in items}
    template = len(_common_start(list(words.values()))) if len(words) >= _TEMPLATE_ITEMS else 0
    grams: dict[str, _Own] = {}
    for name, all_words in words.items():
        own = all_words[template:]
        unspaced = sum(bool(_IS_UNSPACED.match(word)) for word in own)
        if len(own) < (_LEAST_CHARACTERS if 2 * unspaced > len(own) else _LEAST_WORDS):
            continue
        ids = [vocabulary.setdefault(word, len(vocabulary) + 1) for word in own]
        n = len(own) if len(own) < _WHOLE_WORDS else min(_MOST_N, len(own) // 2)
        grams[name] = n, np.unique(_hashes(np.array(ids, np.uint64), n))
    return _distinctive(grams, {item.item.id: item.item.cluster for item in items})


def _distinctive(grams: Mapping[str, _Own], clusters: Mapping[str, str]) -> dict[str, _Own]:
    """Without the n-grams that several clusters share: a template's, which tell nothing."""
    held = {(h, clusters[name]) for name, (_, hashes) in grams.items() for h in hashes.tolist()}
    holders = Counter(hashed for hashed, _ in held)
    found: dict[str, _Own] = {}
    for name, (n, hashes) in grams.items():
        own = np.array([h for h in hashes.tolist() if holders[h] == 1], np.uint64)
        found[name] = n, own if own.size else hashes
    return found


def _common_start(texts: Sequence[list[str]]) -> list[str]:
    """The words that all texts begin with."""
    # What the first and the last in the order of the alphabet share, all between them share.
    pairs = zip(min(texts), max(texts), strict=False)
    return [word for word, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)]


def _sieve(wanted: _Hashes) -> NDArray[np.bool_]:
    """Whether any hash of ``wanted`` has these upper bits, ``bool[2^20]``."""
    sieve = np.zeros(1 << _SIEVE_BITS, np.bool_)
    sieve[wanted >> _SIEVE_SHIFT] = True
    return sieve


def _hashes(ids: NDArray[np.uint64], n: int) -> _Hashes:
    """A hash of every run of ``n`` words: a polynomial of their ids, modulo 2^64."""
    count = len(ids) - n + 1
    hashes = ids[:count].copy()
    for offset in range(1, n):
        hashes *= _BASE
        hashes += ids[offset : offset + count]
    return hashes
