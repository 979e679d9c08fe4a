"""Signatures that are too many for memory, on the local disk."""

from pathlib import Path

import numpy as np

from storage.near_duplicate_segment import Keys, Prints


class SignatureFiles:
    """Two files that grow, of keys and of prints.

    Args:
        directory: Existing local directory for temporary files.
        name: Begins the names of the files, of which there must be none yet.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self.count = 0
        """Of documents."""
        self._keys, self._prints = directory / f"{name}-keys", directory / f"{name}-prints"

    def append(self, keys: Keys, prints: Prints) -> None:
        """Put documents behind the others."""
        for path, values in ((self._keys, keys), (self._prints, prints)):
            with path.open("ab") as file:
                file.write(np.ascontiguousarray(values).data)
        self.count += len(keys)

    def mapped(self) -> tuple[Keys, Prints]:
        """Of all documents in order, where they lie; there must be some."""
        keys = np.memmap(self._keys, np.uint32, "r")
        prints = np.memmap(self._prints, np.uint8, "r")
        return np.asarray(keys).reshape(self.count, -1), np.asarray(prints).reshape(self.count, -1)
