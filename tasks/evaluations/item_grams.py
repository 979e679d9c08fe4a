"""What of task items is looked for in text, and how much of an item a text has.

Whole items of a few words, and 13-grams of long ones, whatever case, punctuation, line breaks,
tags, escapes and characters that nobody sees (the n-gram rule of Brown et al. 2020,
arXiv:2005.14165, section 4), but that one shared 13-gram is no evidence: templates, licences and
quotations share many. An item is there when half of the n-grams that are its own stand in the
text. Of an item between the two, n is half of its words, so that three quarters of it suffice. A
question of eight words is enough without its answers, if all of it stands there: quizzes print
them apart, or in other orders.
Chinese and Japanese have no spaces between words: there a character counts as a word.

What this does not see: paraphrases, translations, and items of fewer than five words.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import takewhile

import numpy as np
from numpy.typing import NDArray

from tasks.case_folding import TURKISH_I, longer_folds
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
_LEAST_QUESTION = 8
"""Words of a question that is looked for without its answers; twice as many characters."""
_TEMPLATE_ITEMS = 8
"""Fewer items may begin alike by chance, and nothing is taken for a template."""
UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
"""Kana and ideographs (Unicode 16, blocks of scripts Hiragana, Katakana and Han)."""
_WORD = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+")
_TAG = re.compile(r"<[A-Za-z/][!-;=?-~]*>")
"""Without white space, so that what opens none hides no text."""
UNSEEN = (
    # Apostrophes, which some texts leave out.
    "'\u2018\u2019\u02bc\uff07"
    # Accents that are no part of a letter: in Russian of stress, in Turkish the dot of a small i.
    "\u0300-\u036f"
    # Soft hyphen, joiners, marks of direction, variation selectors: they do not part a word.
    "\u00ad\u061c\u180b-\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    "\ufe00-\ufe0f\ufeff\U000e0000-\U000e01ef"
)
"""Characters that count for nothing."""
_UNSEEN = re.compile(f"[{UNSEEN}]+")
_COMPATIBLE = ((0x2070, 0x209C), (0xFF01, 0xFF9D), (0x1D400, 0x1D7FF))
"""Raised and lowered, full and half width, mathematical letters: each counts as the plain one."""
_CASED_END = 0x20000
"""No character from here on has two cases."""
_IS_UNSPACED = re.compile(f"[{UNSPACED}]")
BASE = np.uint64(0x9E3779B97F4A7C15)
"""Of the polynomial that hashes words in a row."""

_Hashes = NDArray[np.uint64]
_Own = tuple[int, _Hashes]
"""Length in words and hashes of an item's n-grams."""
Place = tuple[str, str]
"""Task and item."""


def words_of(text: str) -> list[str]:
    """The words of ``text``, without case; ideographs and kana one by one."""
    return _WORD.findall(_UNSEEN.sub("", _TAG.sub(" ", text).translate(folds())))


@cache
def folds() -> dict[int, str]:
    """What characters count as that do not count as themselves: other cases, other forms."""
    every = {code: chr(code).casefold() for code in range(_CASED_END)}
    every |= longer_folds() | TURKISH_I
    for first, last in _COMPATIBLE:
        for code in range(first, last + 1):
            form = unicodedata.normalize("NFKC", chr(code))
            if len(form) == 1:
                every[code] = every.get(ord(form), form)
    return {code: fold for code, fold in every.items() if fold != chr(code)}


class ItemGrams:
    """The n-grams of the items of several tasks, to be looked for in any number of texts.

    Args:
        tasks: Items by the name of their task.
    """

    def __init__(self, tasks: Mapping[str, Sequence[FrozenItem]]) -> None:
        # Not at the top: it imports numba, and a scheduler imports this module.
        from tasks.evaluations.item_search import grams_of  # noqa: PLC0415
        from tasks.evaluations.item_words import lexicon_of  # noqa: PLC0415

        vocabulary: dict[str, int] = {}
        heads: list[_Hashes] = []
        self.own: dict[Place, _Own] = {}
        """Of each item that is long enough."""
        self.questions: dict[Place, _Own] = {}
        """Of each whose question is long enough to be looked for by itself."""
        for task, items in tasks.items():
            clusters = {each.item.id: each.item.cluster for each in items}
            found = _grams_of(_texts_of(items), clusters, vocabulary, heads)
            self.own |= {(task, name): own for name, own in found.items()}
            found = _grams_of(_questions_of(items), clusters, vocabulary, heads, are_questions=True)
            self.questions |= {(task, name): own for name, own in found.items()}
        parts = [*self.own.values(), *self.questions.values()]
        self._places = [*self.own, *self.questions]
        self._counts = np.array([len(own) for _, own in parts], np.int64)
        ns = np.repeat([n for n, _ in parts], self._counts).astype(np.int64)
        hashes = np.concatenate([np.empty(0, np.uint64), *(own for _, own in parts)])
        holders = np.repeat(np.arange(len(parts)), self._counts)
        # Stable, so that those who hold an n-gram keep the order of the items.
        order = np.lexsort((hashes, ns))
        ns, hashes, self._holders = ns[order], hashes[order], holders[order]
        is_first = np.ones(len(ns), np.bool_)
        is_first[1:] = (ns[1:] != ns[:-1]) | (hashes[1:] != hashes[:-1])
        self._first_holders = np.append(np.flatnonzero(is_first), len(ns))
        self._ns, self._hashes = ns[is_first], hashes[is_first]
        all_heads = np.unique(np.concatenate([np.empty(0, np.uint64), *heads]))
        self._grams = grams_of(self._ns, self._hashes, _LEAST_WORDS, all_heads)
        self.lexicon = lexicon_of(list(vocabulary))
        """The words that the items have."""

    def found_in(self, text: str) -> Iterator[tuple[int, _Hashes]]:
        """The n-grams of ``text`` that any item has, by their length in words, each once."""
        (found,) = self._found_in([text])
        for n in np.unique(self._ns[found]).tolist():
            yield n, self._hashes[found[self._ns[found] == n]]

    def shares_in(self, text: str) -> dict[Place, float]:
        """Of every item of which ``text`` has anything, the share of its n-grams that it has.

        1 for one whose whole question it has.
        """
        (shares,) = self.shares_in_texts([text])
        return shares

    def shares_in_texts(self, texts: Sequence[str]) -> list[dict[Place, float]]:
        """``shares_in`` of each text; a few hundred together take half the time of as many calls.

        It holds the texts once more, and eight bytes for each byte of the longest one.
        """
        return [self._shares(found) for found in self._found_in(texts)]

    def _found_in(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """Of each text the places of its n-grams, in increasing order."""
        from tasks.evaluations.item_search import find_grams  # noqa: PLC0415  imports numba

        return find_grams(texts, self.lexicon, self._grams)

    def _shares(self, found: NDArray[np.int64]) -> dict[Place, float]:
        counts: Counter[int] = Counter()
        for gram in found.tolist():
            holders = self._holders[self._first_holders[gram] : self._first_holders[gram + 1]]
            counts.update(holders.tolist())
        shares: dict[Place, float] = {}
        for part, count in sorted(counts.items()):
            share = count / int(self._counts[part])
            # Those of questions come last, and of a question all must be there.
            if part < len(self.own) or share == 1:
                shares[self._places[part]] = share
        return shares


def _texts_of(items: Sequence[FrozenItem]) -> dict[str, list[str]]:
    """The words of items, without those that all begin with; only of those that are long enough."""
    words = _own_words({each.item.id: each.text for each in items})
    return {name: own for name, own in words.items() if _is_long_enough(own)}


def _questions_of(items: Sequence[FrozenItem]) -> dict[str, list[str]]:
    """As ``_texts_of``, the questions of items: choices may stand on the lines below."""
    words = _own_words(
        {
            each.item.id: (each.own_text or each.item.context).partition("\n")[0]
            for each in items
            if each.item.kind in ("multiple_choice", "generation")
        }
    )
    return {name: own for name, own in words.items() if _is_question(own)}


def _own_words(texts: Mapping[str, str]) -> dict[str, list[str]]:
    words = {name: words_of(unicodedata.normalize("NFC", text)) for name, text in texts.items()}
    template = len(_common_start(list(words.values()))) if len(words) >= _TEMPLATE_ITEMS else 0
    return {name: every[template:] for name, every in words.items()}


def _grams_of(
    words: Mapping[str, list[str]],
    clusters: Mapping[str, str],
    vocabulary: dict[str, int],
    heads: list[_Hashes],
    *,
    are_questions: bool = False,
) -> dict[str, _Own]:
    """By item the length and hashes of the distinctive n-grams of its words.

    Fills ``vocabulary`` with numbers for the words, and ``heads`` with hashes of the first words
    of all n-grams. A question that has no distinctive one is left out.
    """
    from tasks.evaluations.item_search import hash_runs  # noqa: PLC0415  imports numba

    numbers = np.array(
        [
            vocabulary.setdefault(word, len(vocabulary) + 1)
            for every in words.values()
            for word in every
        ],
        np.uint64,
    )
    sizes = np.array([len(every) for every in words.values()], np.int64)
    most = np.full_like(sizes, _MOST_N) if are_questions else np.minimum(_MOST_N, sizes // 2)
    ns = np.where(sizes < _WHOLE_WORDS, sizes, most)
    hashes, starts = hash_runs(numbers, np.cumsum(sizes), ns, _LEAST_WORDS)
    heads.append(np.unique(starts))
    codes = {cluster: code for code, cluster in enumerate(clusters.values())}
    owners = np.repeat(np.arange(len(words)), sizes - ns + 1)
    of_owner = np.array([codes[clusters[name]] for name in words], np.int64)
    kept = _distinctive(hashes, owners, of_owner, shared_too=not are_questions)
    found = zip(words, ns.tolist(), kept, strict=True)
    return {name: (n, own) for name, n, own in found if len(own)}


def _is_long_enough(words: Sequence[str]) -> bool:
    if len(words) >= _LEAST_CHARACTERS:
        return True
    unspaced = sum(bool(_IS_UNSPACED.match(word)) for word in words)
    return len(words) >= (_LEAST_CHARACTERS if 2 * unspaced > len(words) else _LEAST_WORDS)


def _is_question(words: Sequence[str]) -> bool:
    unspaced = sum(bool(_IS_UNSPACED.match(word)) for word in words)
    return len(words) - unspaced / 2 >= _LEAST_QUESTION


def _distinctive(
    hashes: _Hashes, owners: NDArray[np.int64], clusters: NDArray[np.int64], *, shared_too: bool
) -> list[_Hashes]:
    """Of each owner its hashes, each once and sorted, without those that several clusters share.

    Those are a template's, which tell nothing.

    Args:
        hashes: Of n-grams.
        owners: ``int64[hashes]``, increasing: which item has each.
        clusters: ``int64[items]``, of the items.
        shared_too: An owner that has no other ones keeps them.
    """
    order = np.lexsort((clusters[owners], hashes))
    ordered, of_cluster = hashes[order], clusters[owners[order]]
    is_first = np.append(True, ordered[1:] != ordered[:-1])[: len(order)]
    is_other = np.append(False, (of_cluster[1:] != of_cluster[:-1]) & ~is_first[1:])[: len(order)]
    run = np.cumsum(is_first) - 1
    is_shared = np.empty(len(hashes), np.bool_)
    is_shared[order] = np.bincount(run, is_other, minlength=len(run) and run[-1] + 1)[run] > 0
    has_own = np.bincount(owners[~is_shared], minlength=len(clusters)) > 0
    wanted = ~is_shared | (shared_too & ~has_own[owners])
    hashes, owners = hashes[wanted], owners[wanted]
    order = np.lexsort((hashes, owners))
    hashes, owners = hashes[order], owners[order]
    is_new = np.append(True, (hashes[1:] != hashes[:-1]) | (owners[1:] != owners[:-1]))
    hashes, owners = hashes[is_new[: len(hashes)]], owners[is_new[: len(hashes)]]
    return np.split(hashes, np.searchsorted(owners, np.arange(1, len(clusters))))[: len(clusters)]


def _common_start(texts: Sequence[list[str]]) -> list[str]:
    """The words that all texts begin with."""
    # What the first and the last in the order of the alphabet share, all between them share.
    pairs = zip(min(texts), max(texts), strict=False)
    return [word for word, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)]
