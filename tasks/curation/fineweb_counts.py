"""The numbers that FineWeb's own rules judge, compiled."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from infra.compiled import compiled_inner
from tasks.curation.characters import SENTENCE_END, SPACE
from tasks.curation.fineweb import COLUMNS
from tasks.curation.repetition import count_duplicates, slots_for
from tasks.curation.word_rules import Places, Rules, Text, code_points, word_rules
from tasks.curation.words import split_words


def count_texts(texts: Sequence[str], *, short_line_characters: int) -> NDArray[np.int64]:
    """``int64[texts, len(COLUMNS)]``: the numbers of each text."""
    counts = np.zeros((len(texts), len(COLUMNS)), np.int64)
    room = max(map(len, texts), default=0) + 2
    starts, ends, scratch = (np.empty(room, np.int32) for _ in range(3))
    keys = np.empty(slots_for(room), np.uint64)
    rules = word_rules()
    for row, text in enumerate(texts):
        points = code_points(text)
        _count(points, rules, short_line_characters, starts, ends, scratch, keys, counts[row])
    return counts


@compiled_inner
def _count(
    text: Text,
    rules: Rules,
    short: int,
    starts: Places,
    ends: Places,
    scratch: Places,
    keys: NDArray[np.uint64],
    found: NDArray[np.int64],
) -> None:
    """Fill ``found``, a row of ``COLUMNS``."""
    lines = newlines = 0
    start, end = 0, len(text)
    while start <= end:
        after = start
        is_blank = True
        while after < end and text[after] != ord("\n"):
            is_blank = is_blank and rules.classes[text[after]] & SPACE != 0
            after += 1
        newlines += after < end
        if not is_blank:
            starts[lines], ends[lines] = start, after
            lines += 1
            found[1] += rules.classes[text[after - 1]] & SENTENCE_END != 0
            found[2] += after - start <= short
        start = after + 1
    found[0], found[4], found[5] = lines, end - newlines, newlines
    _, found[3] = count_duplicates(text, starts, ends, lines, keys)
    found[6] = split_words(text, 0, end, rules, starts, ends, scratch)
