"""Documents that are mostly made of paragraphs of earlier ones, which near-duplicates do not show.

A digest, a mirror with other comments, a page put together from others: little of it is new, and
none of its sources is near to the whole. A paragraph is a line, as in CCNet (Wenzek et al. 2019,
arXiv:1911.00359), which compares lines by their hashes too; unlike there a document stays whole or
goes as a whole, so that what is trained on is what somebody wrote.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import xxhash
from numpy.typing import NDArray

from infra.bounds import Bounds
from storage.known_documents import KnownDocuments
from storage.known_piece import Keys
from tasks.sorted_digests import SortedDigests
from training.config import FORBID_UNKNOWN

PARAGRAPH_DUPLICATES = "paragraph_duplicates"
"""Reason of a document that is dropped here."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ParagraphRules:
    """How much of a document may be paragraphs of earlier ones, of the lineage or of the batch."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN

    max_share: Annotated[float, Bounds(ge=0, lt=1)] = 0.5
    """Of its characters."""
    min_characters: Annotated[int, Bounds(ge=20, unit="characters")] = 80
    """Shorter lines are no paragraphs: many documents share them by chance."""


# Not comparable: it holds arrays.
@dataclass(frozen=True, slots=True, eq=False)
class Paragraphs:
    """The paragraphs of some texts."""

    keys: Keys
    """``S16[paragraphs]``: hashes, those of a text each once."""
    characters: NDArray[np.int64]
    """Of each paragraph, as often as it stands in its text."""
    counts: NDArray[np.int64]
    """Different paragraphs of each text."""
    most: NDArray[np.float64]
    """Characters of each text that may be known; infinite where no rule asks."""


def paragraphs_of(
    texts: Sequence[str], rules: Sequence[ParagraphRules | None]
) -> Paragraphs | None:
    """The paragraphs of normalised texts, each with the rules of its domain. Pure.

    None where no text has rules.
    """
    if not any(rules):
        return None
    keys: list[bytes] = []
    characters: list[int] = []
    counts = np.zeros(len(texts), np.int64)
    most = np.full(len(texts), np.inf)
    for place, (text, rule) in enumerate(zip(texts, rules, strict=True)):
        if rule is None:
            continue
        found = _lines(text, rule.min_characters)
        keys += found.keys()
        characters += found.values()
        counts[place] = len(found)
        most[place] = rule.max_share * len(text)
    joined = np.frombuffer(b"".join(keys), "S16")
    return Paragraphs(joined, np.array(characters, np.int64), counts, most)


def _lines(text: str, min_characters: int) -> Mapping[bytes, int]:
    """Characters of each long line, by its hash: what a line is around its words is left away."""
    found: dict[bytes, int] = {}
    for line in text.split("\n"):
        if len(line) >= min_characters and len(line := line.strip()) >= min_characters:
            key = xxhash.xxh3_128_digest(line.encode())
            found[key] = found.get(key, 0) + len(line)
    return found


class ParagraphScreen:
    """Screens the documents of one refresh, one after the other.

    What passes is known from then on, also what a later stage drops, as with near-duplicates; so
    three refreshes keep what one over the same documents in the same order keeps. Memory grows by
    16 bytes a paragraph.

    Args:
        known: What the lineage has.
    """

    def __init__(self, known: KnownDocuments) -> None:
        self._known = known
        self._seen = SortedDigests()

    def repeats(self, paragraphs: Paragraphs, wanted: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which of the texts that come next have too much that is known.

        Args:
            paragraphs: Of the texts.
            wanted: ``bool[texts]``: the others were dropped, and teach nothing.
        """
        keys = [key.ljust(16, b"\0") for key in paragraphs.keys.tolist()]
        was_known = self._known.has_paragraphs(paragraphs.keys) | self._seen.has(keys)
        ends = np.cumsum(paragraphs.counts)
        found = np.zeros(len(ends), np.bool_)
        new: set[bytes] = set()
        for text in np.flatnonzero(wanted & (paragraphs.counts > 0)).tolist():
            own = range(int(ends[text] - paragraphs.counts[text]), int(ends[text]))
            repeated = [at for at in own if was_known[at] or keys[at] in new]
            found[text] = paragraphs.characters[repeated].sum() > paragraphs.most[text]
            if not found[text]:
                new.update(keys[at] for at in own if not was_known[at])
        self._seen.add(new)
        return found

    def write(self, path: Path) -> None:
        """Write the hashes of what passed and is new, sorted, once everything was screened."""
        path.write_bytes(self._seen.sorted().tobytes())
