"""The documents of a batch that were kept so far, found by the bands of their signatures."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.compiled import compiled
from storage.near_duplicate_segment import Keys, Prints, SignatureScheme

_EMPTY = np.int32(-1)
_FIRST_CAPACITY = 1024
_GROWTH = 1.5
_SLOT_STEP = np.uint64(0x9E3779B97F4A7C15)
_SLOT_SHIFT = np.uint64(20)


class KeptDocuments:
    """Those that repeat no earlier one, some 400 bytes each with FineWeb's bands.

    A table of open addressing leads from a band's key to the newest document that has it, and from
    there ``following`` to the one before. An entry is ``document * bands + band``.
    """

    def __init__(self, scheme: SignatureScheme) -> None:
        self.scheme = scheme
        self.count = 0
        self._keys = np.empty((0, scheme.bands), np.uint32)
        self._prints = np.empty((0, scheme.permutations), np.uint8)
        self._following = np.empty((0, scheme.bands), np.int32)
        self._slots = np.empty(0, np.int32)

    @property
    def keys(self) -> Keys:
        """Of the kept documents, in order."""
        return self._keys[: self.count]

    @property
    def prints(self) -> Prints:
        """Of the kept documents, in order."""
        return self._prints[: self.count]

    def keep_new(
        self, keys: Keys, prints: Prints, is_left_out: NDArray[np.bool_], minimum: int
    ) -> NDArray[np.bool_]:
        """Keep one after the other what repeats no kept one; returns which do repeat one.

        Args:
            keys: Of the documents that come next, in canonical order.
            prints: Of the same.
            is_left_out: ``bool[documents]``, which are neither compared nor kept.
            minimum: Equal bytes of two prints that make near-duplicates.
        """
        self._reserve(self.count + len(keys))
        repeats = np.zeros(len(keys), np.bool_)
        self.count = _keep_new(
            (keys, prints, is_left_out, minimum, repeats),
            self.count,
            (self._keys, self._prints, self._following, self._slots),
        )
        return repeats

    def _reserve(self, count: int) -> None:
        if count <= len(self._keys):
            return
        capacity = max(_FIRST_CAPACITY, count, int(len(self._keys) * _GROWTH))
        self._keys = _grown(self._keys, capacity)
        self._prints = _grown(self._prints, capacity)
        # At most half of the slots are ever taken.
        num_slots = 1 << (2 * capacity * self.scheme.bands - 1).bit_length()
        self._slots = np.full(num_slots, _EMPTY, np.int32)
        self._following = np.empty((capacity, self.scheme.bands), np.int32)
        _insert_all(self._keys, self.count, self._following, self._slots)


def _grown(array: NDArray, capacity: int) -> NDArray:
    grown = np.empty((capacity, array.shape[1]), array.dtype)
    grown[: len(array)] = array
    return grown


@compiled
def _slot_of(key: Any, band: Any, kept_keys: Any, slots: Any) -> Any:
    """The slot of a band's key: where its newest document is, or an empty one."""
    mask = np.uint64(len(slots) - 1)
    slot = ((np.uint64(key) ^ (np.uint64(band) << _SLOT_SHIFT)) * _SLOT_STEP >> _SLOT_SHIFT) & mask
    bands = kept_keys.shape[1]
    while slots[slot] >= 0:
        document = slots[slot] // bands
        if slots[slot] - document * bands == band and kept_keys[document, band] == key:
            break
        slot = (slot + np.uint64(1)) & mask
    return slot


@compiled
def _insert(document: Any, kept_keys: Any, following: Any, slots: Any) -> Any:
    bands = kept_keys.shape[1]
    for band in range(bands):
        slot = _slot_of(kept_keys[document, band], band, kept_keys, slots)
        following[document, band] = slots[slot]
        slots[slot] = document * bands + band


@compiled
def _insert_all(kept_keys: Any, count: Any, following: Any, slots: Any) -> Any:
    for document in range(count):
        _insert(document, kept_keys, following, slots)


@compiled
def _num_equal(one: Any, other: Any) -> Any:
    count = 0
    for index in range(len(one)):
        count += one[index] == other[index]
    return count


@compiled
def _repeats_one(keys: Any, prints: Any, minimum: Any, kept: Any) -> Any:
    kept_keys, kept_prints, following, slots = kept
    bands = len(keys)
    for band in range(bands):
        entry = slots[_slot_of(keys[band], band, kept_keys, slots)]
        while entry >= 0:
            document = entry // bands
            if _num_equal(prints, kept_prints[document]) >= minimum:
                return True
            entry = following[document, band]
    return False


@compiled
def _keep_new(batch: Any, count: Any, kept: Any) -> Any:
    keys, prints, is_left_out, minimum, repeats = batch
    kept_keys, kept_prints, following, slots = kept
    for index in range(len(keys)):
        if is_left_out[index]:
            continue
        if _repeats_one(keys[index], prints[index], minimum, kept):
            repeats[index] = True
            continue
        kept_keys[count] = keys[index]
        kept_prints[count] = prints[index]
        _insert(count, kept_keys, following, slots)
        count += 1
    return count
