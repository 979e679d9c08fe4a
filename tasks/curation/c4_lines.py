"""The lines of a text that C4's rules keep, compiled (Raffel et al. 2020, arXiv:1910.10683)."""

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from infra.compiled import compiled_inner
from tasks.curation.c4 import COLUMNS
from tasks.curation.characters import DIGIT, LINE_END, PUNCTUATION, SENTENCE_END, SPACE
from tasks.curation.repetition import stripped
from tasks.curation.word_rules import Places, Rules, Text, code_points, word_rules
from tasks.curation.words import split_words

_LOREM, _JAVASCRIPT = 0, 1
_PHRASES = (
    "lorem ipsum",
    "javascript",
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
)
_CITATIONS = ("[edit]", "[citation needed]")


def clean_lines(
    texts: Sequence[str],
    *,
    needs_end_mark: bool,
    min_words_per_line: int,
    max_word_characters: int,
) -> tuple[list[str], NDArray[np.int64]]:
    """The kept lines of each text, and ``int64[texts, len(COLUMNS)]``.

    A line is kept if it ends a sentence (unless that is not asked), has enough words and none that
    is too long, and speaks neither of JavaScript nor of terms of use, privacy and cookies. Marks of
    citations, such as [3], are removed from it.
    """
    counts = np.zeros((len(texts), len(COLUMNS)), np.int64)
    room = max(map(len, texts), default=0) + 2
    kept = np.empty(room, np.uint32)
    starts, ends, scratch = (np.empty(room, np.int32) for _ in range(3))
    rules, phrases, citations = word_rules(), _rows(_PHRASES), _rows(_CITATIONS)
    pairs = _first_pairs(_PHRASES)
    cleaned: list[str] = []
    for row, text in enumerate(texts):
        points = code_points(text)
        length = _clean(
            points,
            rules,
            phrases,
            pairs,
            citations,
            needs_end_mark,
            min_words_per_line,
            max_word_characters,
            kept,
            counts[row],
            starts,
            ends,
            scratch,
        )
        is_same = length == len(points) and np.array_equal(kept[:length], points)
        cleaned.append(text if is_same else kept[:length].tobytes().decode("utf-32-le").strip())
    return cleaned, counts


@cache
def _rows(phrases: tuple[str, ...]) -> NDArray[np.uint32]:
    rows = np.zeros((len(phrases), max(map(len, phrases)) + 1), np.uint32)
    for row, phrase in enumerate(phrases):
        rows[row, : len(phrase)] = code_points(phrase)
    return rows


@cache
def _first_pairs(phrases: tuple[str, ...]) -> NDArray[np.bool_]:
    """``bool[32, 32]``: whether a phrase begins with two characters that end in these bits.

    The last five bits are the same in upper and lower case.
    """
    pairs = np.zeros((32, 32), np.bool_)
    for phrase in phrases:
        pairs[ord(phrase[0]) & 31, ord(phrase[1]) & 31] = True
    return pairs


@compiled_inner
def _clean(
    text: Text,
    rules: Rules,
    phrases: NDArray[np.uint32],
    pairs: NDArray[np.bool_],
    citations: NDArray[np.uint32],
    needs_end_mark: bool,
    min_words: int,
    max_word: int,
    kept: Text,
    found: NDArray[np.int64],
    starts: Places,
    ends: Places,
    scratch: Places,
) -> int:
    """Write the kept lines; returns their length with the newlines between them."""
    start = written = 0
    end = len(text)
    while start < end:
        after = start
        while after < end and not rules.classes[text[after]] & LINE_END:
            after += 1
        first, last = stripped(text, start, after, rules.classes)
        start = after + 1
        words, longest = _measure_words(text, first, last, rules)
        if longest > max_word or words < min_words:
            continue
        line = written + 1 if found[0] else written
        tail = _without_citations(text, first, last, rules, citations, kept, line)
        if needs_end_mark and not _ends_sentence(kept, line, tail):
            continue
        mentions = _mentions(kept, line, tail, phrases, pairs)
        if mentions & (1 << _LOREM):
            found[2] += 1
        if mentions & (1 << _JAVASCRIPT):
            continue
        if _count_curly_brackets(kept, line, tail):
            found[3] += 1
        if mentions >> (_JAVASCRIPT + 1):
            continue
        found[1] += _count_sentences(kept, line, tail, rules, starts, ends, scratch)
        if found[0]:
            kept[written] = ord("\n")
        found[0] += 1
        written = tail
    return written


@compiled_inner
def _measure_words(text: Text, first: int, last: int, rules: Rules) -> tuple[int, int]:
    """Number of words between white space, and the characters of the longest."""
    words = longest = length = 0
    for place in range(first, last):
        if rules.classes[text[place]] & SPACE:
            length = 0
            continue
        words += length == 0
        length += 1
        longest = max(longest, length)
    return words, longest


@compiled_inner
def _without_citations(
    text: Text,
    first: int,
    last: int,
    rules: Rules,
    citations: NDArray[np.uint32],
    kept: Text,
    written: int,
) -> int:
    """Copy a line but for the marks of citations; returns where the copy ends."""
    place = first
    while place < last:
        if text[place] == ord("["):
            skipped = _citation_length(text, place, last, rules, citations)
            place += skipped
            if skipped:
                continue
        kept[written] = text[place]
        written += 1
        place += 1
    return written


@compiled_inner
def _citation_length(
    text: Text, place: int, last: int, rules: Rules, citations: NDArray[np.uint32]
) -> int:
    after = place + 1
    while after < last and rules.classes[text[after]] & DIGIT:
        after += 1
    if after < last and text[after] == ord("]"):
        return after + 1 - place
    for row in range(citations.shape[0]):
        length = 0
        while citations[row, length] and place + length < last:
            if citations[row, length] != text[place + length]:
                break
            length += 1
        if citations[row, length] == 0:
            return length
    return 0


@compiled_inner
def _ends_sentence(text: Text, first: int, after: int) -> bool:
    if after <= first:
        return False
    last = text[after - 1]
    if last == ord("."):
        is_ellipsis = after - first > 2 and text[after - 2] == ord(".")
        return not (is_ellipsis and text[after - 3] == ord("."))
    return last == ord("?") or last == ord("!") or last == ord('"') or last == ord("'")


@compiled_inner
def _mentions(
    text: Text, first: int, after: int, phrases: NDArray[np.uint32], pairs: NDArray[np.bool_]
) -> int:
    """A bit for each phrase that occurs, in upper or lower case."""
    seen = 0
    for place in range(first, after - 1):
        # Two letters tell nearly all places apart.
        if not pairs[text[place] & 31, text[place + 1] & 31]:
            continue
        initial = text[place] | np.uint32(32)
        for row in range(phrases.shape[0]):
            if phrases[row, 0] != initial:
                continue
            length = 1
            while phrases[row, length] and place + length < after:
                char = text[place + length]
                if ord("A") <= char <= ord("Z"):
                    char |= np.uint32(32)
                if char != phrases[row, length]:
                    break
                length += 1
            if phrases[row, length] == 0:
                seen |= 1 << row
    return seen


@compiled_inner
def _count_curly_brackets(text: Text, first: int, after: int) -> int:
    brackets = 0
    for place in range(first, after):
        brackets += text[place] == ord("{")
    return brackets


@compiled_inner
def _count_sentences(
    text: Text,
    first: int,
    after: int,
    rules: Rules,
    starts: Places,
    ends: Places,
    scratch: Places,
) -> int:
    """Sentences of a line: one begins at the first word after an end mark that is no punctuation.

    Only a run of characters with an end mark in it is split into words: "Mr." ends no sentence.
    """
    sentences, is_ended = 1, False
    place = first
    while place < after:
        if rules.classes[text[place]] & SPACE:
            place += 1
            continue
        begin = place
        every, some = PUNCTUATION, 0
        while place < after and not rules.classes[text[place]] & SPACE:
            every &= rules.classes[text[place]]
            some |= rules.classes[text[place]]
            place += 1
        if not some & SENTENCE_END:
            if is_ended and not every:
                sentences += 1
                is_ended = False
            continue
        words = split_words(text, begin, place, rules, starts, ends, scratch)
        for word in range(words):
            every = PUNCTUATION
            for inside in range(starts[word], ends[word]):
                every &= rules.classes[text[inside]]
            is_mark = ends[word] - starts[word] == 1
            is_mark = is_mark and rules.classes[text[starts[word]]] & SENTENCE_END != 0
            if is_mark:
                is_ended = True
            elif is_ended and not every:
                sentences += 1
                is_ended = False
    return sentences
