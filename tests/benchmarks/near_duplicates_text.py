"""Generated documents with planted near-duplicates whose Jaccard similarity is known exactly."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

NGRAM = 5
_VOCABULARY = 50_000


@dataclass(frozen=True, slots=True)
class Planted:
    """A pair of documents, by their places."""

    earlier: int
    later: int
    jaccard: float


def documents(count: int, *, num_words: int, seed: int) -> Iterator[list[str]]:
    """Random words, of which a few are frequent and many rare."""
    rng, names = np.random.default_rng(seed), random.Random(seed)
    vocabulary = [
        "".join(names.choices("etaoinshrdlucmfw", k=n % 9 + 2)) for n in range(_VOCABULARY)
    ]
    for start in range(0, count, 1000):
        ranks = rng.zipf(1.3, (min(1000, count - start), num_words)) % _VOCABULARY
        for row in ranks.tolist():
            yield [vocabulary[rank] for rank in row]


def with_planted(
    count: int, *, num_words: int, share: float, seed: int
) -> tuple[list[str], list[Planted]]:
    """Texts without line ends, of which ``share`` repeat another by 0.5 to 1, and which those are.

    Both stand anywhere; no document is in two pairs.
    """
    rng = random.Random(seed)
    num_copies = int(count * share)
    words = list(documents(count - num_copies, num_words=num_words, seed=seed))
    originals = rng.sample(range(len(words)), num_copies)
    jaccards: list[float] = []
    for number, original in enumerate(originals):
        copy = _changed(words[original], rng.uniform(0.5, 1), f"{seed}x{number}", rng)
        jaccards.append(jaccard(words[original], copy))
        words.append(copy)
    order = rng.sample(range(count), count)
    place = {document: index for index, document in enumerate(order)}
    pairs: list[Planted] = []
    for number, (original, similarity) in enumerate(zip(originals, jaccards, strict=True)):
        one, other = place[original], place[count - num_copies + number]
        pairs.append(Planted(min(one, other), max(one, other), similarity))
    return [" ".join(words[document]) for document in order], pairs


def shingles(words: list[str]) -> set[tuple[str, ...]]:
    """All that stand in a row, of ``NGRAM`` words."""
    return {tuple(words[start : start + NGRAM]) for start in range(len(words) - NGRAM + 1)}


def jaccard(one: list[str], other: list[str]) -> float:
    """Of the sets of shingles."""
    first, second = shingles(one), shingles(other)
    return len(first & second) / len(first | second)


def _changed(words: list[str], wanted: float, stamp: str, rng: random.Random) -> list[str]:
    """A copy with so many single words replaced that about ``wanted`` stays in common."""
    num_shingles = len(words) - NGRAM + 1
    count = round(num_shingles * (1 - wanted) / (NGRAM * (1 + wanted)))
    copy = list(words)
    # Apart from each other, so that each costs the same number of shingles.
    for number, place in enumerate(rng.sample(range(NGRAM, len(words) - NGRAM, NGRAM), count)):
        copy[place] = f"{stamp}y{number}"
    return copy
