"""The numbers that Gopher's rules judge, compiled, for a batch of texts."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from infra.compiled import compiled, compiled_inner
from tasks.curation.characters import LETTER, LINE_END, SYMBOL
from tasks.curation.gopher import COLUMNS
from tasks.curation.repetition import (
    LONGEST,
    SHORTEST,
    count_duplicates,
    count_ngrams,
    slots_for,
    split_at_newlines,
    stripped,
)
from tasks.curation.word_rules import Places, Rules, Text, code_points, word_rules
from tasks.curation.words import split_words

_ELLIPSIS = 0x2026
_BULLET = 0x2022
_STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
_FIRST_NGRAM = COLUMNS.index("top_2_gram_characters")


def count_texts(texts: Sequence[str]) -> NDArray[np.int64]:
    """``int64[texts, len(COLUMNS)]``: the numbers of each text."""
    stop_words = np.array([int.from_bytes(word.encode(), "little") for word in _STOP_WORDS])
    counts = np.zeros((len(texts), len(COLUMNS)), np.int64)
    room = max(map(len, texts), default=0) + 2
    starts, ends, scratch = (np.empty(room, np.int32) for _ in range(3))
    keys = np.empty(slots_for(room), np.uint64)
    rules = word_rules()
    for row, text in enumerate(texts):
        _count(code_points(text), rules, stop_words, starts, ends, scratch, keys, counts[row])
    return counts


@compiled
def _count(
    text: Text,
    rules: Rules,
    stop_words: NDArray[np.int64],
    starts: Places,
    ends: Places,
    scratch: Places,
    keys: NDArray[np.uint64],
    found: NDArray[np.int64],
) -> None:
    """Fill ``found``, a row of ``COLUMNS``."""
    end = len(text)
    found[0] = end
    found[6], found[7] = _count_marks(text)
    found[8], found[9], found[10] = _count_lines(text, rules)
    first, after = stripped(text, 0, end, rules.classes)
    found[11] = split_at_newlines(text, first, after, 2, starts, ends)
    found[12], found[13] = count_duplicates(text, starts, ends, found[11], keys)
    found[14] = split_at_newlines(text, 0, end, 1, starts, ends)
    found[15], found[16] = count_duplicates(text, starts, ends, found[14], keys)
    words = split_words(text, 0, end, rules, starts, ends, scratch)
    found[1] = words
    found[2], found[3], found[4] = _count_words(text, rules, starts, ends, words)
    found[5] = _count_stop_words(text, stop_words, starts, ends, words)
    ngrams = np.zeros(LONGEST + 1, np.int64)
    count_ngrams(text, starts, ends, words, keys, ngrams)
    for n in range(SHORTEST, LONGEST + 1):
        found[_FIRST_NGRAM + n - SHORTEST] = ngrams[n]


@compiled_inner
def _count_marks(text: Text) -> tuple[int, int]:
    """Hash signs, and ellipses of three full stops or of one character."""
    hashes = ellipses = stops = 0
    for char in text:
        if char == ord("."):
            stops += 1
            if stops == 3:
                ellipses += 1
                stops = 0
            continue
        stops = 0
        hashes += char == ord("#")
        ellipses += char == _ELLIPSIS
    return hashes, ellipses


@compiled_inner
def _count_lines(text: Text, rules: Rules) -> tuple[int, int, int]:
    """Lines, lines that begin with a bullet, and lines that end with an ellipsis."""
    lines = bullets = ellipses = 0
    start, end = 0, len(text)
    while start < end:
        after = start
        while after < end and not rules.classes[text[after]] & LINE_END:
            after += 1
        first, last = stripped(text, start, after, rules.classes)
        if first < last:
            bullets += text[first] == _BULLET or text[first] == ord("-")
            is_stops = last - first > 2 and text[last - 1] == ord(".")
            is_stops = is_stops and text[last - 2] == ord(".") and text[last - 3] == ord(".")
            ellipses += is_stops or text[last - 1] == _ELLIPSIS
        lines += 1
        is_pair = after + 1 < end and text[after] == ord("\r") and text[after + 1] == ord("\n")
        start = after + (2 if is_pair else 1)
    return lines, bullets, ellipses


@compiled_inner
def _count_words(
    text: Text, rules: Rules, starts: Places, ends: Places, words: int
) -> tuple[int, int, int]:
    """Words of more than symbols, their characters, and words with a letter."""
    counted = characters = alphabetic = 0
    for word in range(words):
        every, some = np.uint16(SYMBOL), np.uint16(0)
        # The first character of nearly every word settles both.
        place = starts[word]
        while place < ends[word] and (every or not some & LETTER):
            kind = rules.classes[text[place]]
            every &= kind
            some |= kind
            place += 1
        if not every:
            counted += 1
            characters += ends[word] - starts[word]
        alphabetic += (some & LETTER) != 0
    return counted, characters, alphabetic


@compiled_inner
def _count_stop_words(
    text: Text, stop_words: NDArray[np.int64], starts: Places, ends: Places, words: int
) -> int:
    """How many of the stop words occur."""
    seen = 0
    for word in range(words):
        first, length = starts[word], ends[word] - starts[word]
        if length > 4 or length < 2:
            continue
        packed = 0
        for place in range(first + length - 1, first - 1, -1):
            # What is above ASCII becomes a byte that no stop word has.
            packed = packed << 8 | min(np.int64(text[place]), 0xFF)
        for row in range(len(stop_words)):
            if stop_words[row] == packed:
                seen |= 1 << row
    total = 0
    for row in range(len(stop_words)):
        total += (seen >> row) & 1
    return total
