"""Texts of kept documents on the local disk, until a tokenizer was trained on them."""

import pickle
from collections.abc import Iterator, Sequence
from itertools import compress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tasks.encode import Legible
from tasks.prepare import Prepared


class TextSpool:
    """Takes texts batch by batch, and gives them back as often as they are asked for.

    Args:
        directory: Existing local directory.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / "texts.pickle"
        self._path.touch()

    def add(self, prepared: Prepared, reasons: Sequence[str], first_row: int) -> None:
        """Add the texts of those documents of a batch that are kept.

        Args:
            prepared: The batch, with its texts.
            reasons: Why its documents are dropped.
            first_row: Row of its first document in the table of all.
        """
        kept = [not reasons[place] for place in prepared.looked_at]
        rows = prepared.looked_at[kept] + first_row
        legible = list(compress(prepared.legible, kept))
        with self._path.open("ab") as file:
            pickle.dump((rows, legible), file, pickle.HIGHEST_PROTOCOL)

    def texts(self) -> Iterator[str]:
        """All texts in order."""
        return (item.text for batch in self.batches() for item in batch)

    def batches(self) -> Iterator[list[Legible]]:
        """The texts as they were added."""
        return (legible for _, legible in self._read())

    def rows(self) -> Iterator[NDArray[np.int64]]:
        """The rows of the documents of each batch."""
        return (rows for rows, _ in self._read())

    def _read(self) -> Iterator[tuple[NDArray[np.int64], list[Legible]]]:
        with self._path.open("rb") as file:
            end = self._path.stat().st_size
            while file.tell() < end:
                yield pickle.load(file)
