"""Signatures of texts: what near-duplicates are found and compared by."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import shake_256

import numpy as np
from numpy.typing import NDArray

from storage.near_duplicate_segment import Keys, Prints, SignatureScheme
from tasks.near_duplicates.characters import fold_table, longer_table


@dataclass(frozen=True, slots=True)
class Signatures:
    """Of some texts, in their order."""

    keys: Keys
    prints: Prints
    is_empty: NDArray[np.bool_]
    """``bool[texts]``: has no word at all, so nothing can be said of it."""

    def of(self, texts: NDArray[np.bool_]) -> "Signatures":
        """Those of some of the texts."""
        return Signatures(self.keys[texts], self.prints[texts], self.is_empty[texts])


def minima_of(
    texts: Sequence[str], scheme: SignatureScheme
) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """``uint32[texts, permutations]`` minima, and the shingles of each text with repeated ones.

    The share of equal minima of two texts is an unbiased estimate of the Jaccard similarity of
    their sets of shingles, with a variance of J (1 - J) / permutations. A pure function of a text
    and the scheme, on every machine.
    """
    # Not at the top: it imports numba, and a scheduler imports this module.
    from tasks.near_duplicates.kernel import sign  # noqa: PLC0415

    encoded = [text.encode() for text in texts]
    ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)
    data = np.frombuffer(b"".join(encoded), np.uint8)
    scale, shift = _permutations(scheme)
    minima = np.empty((len(texts), scheme.permutations), np.uint32)
    counts = np.empty(len(texts), np.int64)
    tables = fold_table(), longer_table()
    sign(data, ends, *tables, scheme.ngram, scale, shift, minima, counts)
    return minima, counts


def signatures_of(texts: Sequence[str], scheme: SignatureScheme) -> Signatures:
    """The signatures of ``texts``, each on its own."""
    from tasks.near_duplicates.kernel import condense  # noqa: PLC0415  numba

    minima, counts = minima_of(texts, scheme)
    keys = np.empty((len(texts), scheme.bands), np.uint32)
    prints = np.empty((len(texts), scheme.permutations), np.uint8)
    condense(minima, scheme.rows, keys, prints)
    return Signatures(keys=keys, prints=prints, is_empty=counts == 0)


def _permutations(scheme: SignatureScheme) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Odd factors and offsets. Not from numpy's generators, whose streams may change."""
    count = scheme.permutations
    stream = shake_256(f"perennial minhash {scheme.seed}".encode()).digest(8 * count)
    # One pair a permutation, so that more of them begin with the same ones.
    pairs = np.frombuffer(stream, "<u4").reshape(count, 2).astype(np.uint32)
    return pairs[:, 0] | np.uint32(1), pairs[:, 1].copy()
