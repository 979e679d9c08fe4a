"""Items made from held-out documents: a rare word to be found again, which stands earlier in them.

Who reads the document can answer; who has learned nothing of it can too. So a loss here is a loss
of the ability to use a context, on text that the lineage has just met (cf. LAMBADA, Paperno et al.
2016, arXiv:1606.06031). The choice of documents, places and words follows from their content.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from tasks.evaluations.frozen import FrozenItem
from training.items.item import Item

_WORD = re.compile(r"\w[\w'\u2019-]*\w|\w")
_LEAST_BEFORE = 20
"""Words of context at least."""
_MOST_BEFORE = 120
"""Words of context at most; the answer stands among them."""
_RARE_SHARE = 0.02
"""A word in more documents than this share, and in more than one, is no rare one."""
_LEAST_LETTERS = 8
"""Of a word that is neither a number nor a name: shorter ones are rare by chance."""
_PER_DOCUMENT = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutText:
    """One held-out document as text."""

    document: str
    cluster: str
    text: str


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an item could be made: ``text[start:answer_at]`` is read, then the word is asked."""

    start: int
    answer_at: int
    word: str


def mint_cloze(documents: Sequence[HeldOutText], most: int) -> tuple[FrozenItem, ...]:
    """At most ``most`` items, up to three a document; the same documents give the same items."""
    rarity = Counter(word for document in documents for word in _distinct_words(document.text))
    limit = max(1, int(_RARE_SHARE * len(documents)))
    made: list[tuple[int, str, FrozenItem]] = []
    for document in sorted(documents, key=lambda row: row.document):
        places = [p for p in _places(document.text) if rarity[p.word.lower()] <= limit]
        places.sort(key=lambda place: _rank(document.document, place))
        for number, place in enumerate(_apart(places)):
            item = _item(document, place, number)
            made.append((number, _rank(document.document, place), item))
    # First one of every document, then a second: documents count more than places in them.
    made.sort(key=lambda entry: entry[:2])
    return tuple(item for _, _, item in made[:most])


def _item(document: HeldOutText, place: _Place, number: int) -> FrozenItem:
    context = document.text[place.start : place.answer_at]
    bare = context.rstrip(" ")
    item = Item(
        id=f"{document.document}#{number}",
        cluster=document.cluster,
        kind="cloze",
        context=bare,
        choices=(place.word,),
        delimiter=context[len(bare) :][:1],
    )
    return FrozenItem(item=item)


def _apart(places: Iterable[_Place]) -> Iterator[_Place]:
    """The first few that ask for different words."""
    asked: set[str] = set()
    for place in places:
        if place.word not in asked and len(asked) < _PER_DOCUMENT:
            asked.add(place.word)
            yield place


def _places(text: str) -> Iterator[_Place]:
    """Every second or later occurrence of a telling word, with enough to read before it."""
    words = list(_WORD.finditer(text))
    last: dict[str, int] = {}
    for index, found in enumerate(words):
        word = found.group()
        earlier = last.get(word)
        last[word] = index
        if earlier is None or index < _LEAST_BEFORE or not _is_telling(text, found):
            continue
        first = max(0, index - _MOST_BEFORE)
        # Not right behind itself: that would ask to repeat, not to find.
        if first <= earlier < index - 3 and text[found.start() - 1].isspace():
            yield _Place(words[first].start(), found.start(), word)


def _is_telling(text: str, found: re.Match[str]) -> bool:
    """A number, a name inside a sentence, or a long word."""
    word = found.group()
    if any(character.isdigit() for character in word):
        return True
    before = text[: found.start()].rstrip()
    is_name = word[:1].isupper() and len(word) > 1 and before[-1:] not in ".!?:\"'\u201d"
    return is_name or len(word) >= _LEAST_LETTERS


def _distinct_words(text: str) -> set[str]:
    return {word.lower() for word in _WORD.findall(text)}


def _rank(document: str, place: _Place) -> str:
    key = f"{document}\0{place.answer_at}\0{place.word}"
    return hashlib.blake2b(key.encode(), digest_size=8).hexdigest()
