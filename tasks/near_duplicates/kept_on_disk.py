"""The documents of a refresh that were kept so far, of which only the newest are in memory.

What is looked up is a table of the newest and, on the disk, sorted segments of those before, each
larger than the next. A search in a segment touches a page or two a band, most of which stay in
memory as long as 56 bytes a document fit into it; the rest is read only where something is alike.
"""

import mmap
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from storage.near_duplicate_segment import (
    Keys,
    Prints,
    Segment,
    SignatureScheme,
    merge_segments,
    write_segment,
)
from tasks.near_duplicates.kept import KeptDocuments
from tasks.near_duplicates.signature_files import SignatureFiles

_IN_MEMORY = 1 << 16
"""Documents, some 400 bytes each."""


class KeptOnDisk:
    """Keeps what repeats no kept document.

    Args:
        scheme: Of the signatures.
        directory: Existing local directory for temporary files.
    """

    def __init__(self, scheme: SignatureScheme, directory: Path) -> None:
        self._scheme, self._directory = scheme, directory
        self._newest = KeptDocuments(scheme)
        self._segments: list[Segment] = []
        self._written = SignatureFiles(directory, "kept")
        self._num_segments = 0

    def keep_new(
        self, keys: Keys, prints: Prints, is_left_out: NDArray[np.bool_], minimum: int
    ) -> NDArray[np.bool_]:
        """As ``KeptDocuments.keep_new``, whatever is in memory."""
        repeats = np.zeros(len(keys), np.bool_)
        for segment in self._segments:
            repeats |= segment.has(keys, prints, minimum)
        repeats &= ~is_left_out
        repeats |= self._newest.keep_new(keys, prints, is_left_out | repeats, minimum)
        if self._newest.count >= _IN_MEMORY:
            self._write_newest()
        return repeats

    def signatures(self) -> tuple[Keys, Prints]:
        """Of all kept documents in order, where they lie."""
        self._append()
        if not self._written.count:
            return self._newest.keys, self._newest.prints
        return self._written.mapped()

    def _append(self) -> None:
        """Put the newest behind the others, and begin anew."""
        self._written.append(self._newest.keys, self._newest.prints)
        self._newest = KeptDocuments(self._scheme)

    def _write_newest(self) -> None:
        self._segments.append(self._written_segment())
        self._append()
        while len(self._segments) > 1:
            before, last = self._segments[-2:]
            if before.num_documents >= 2 * last.num_documents:
                return
            path = self._next_path()
            merge_segments(path, [before, last])
            self._segments[-2:] = [_opened(path)]

    def _written_segment(self) -> Segment:
        path, newest = self._next_path(), self._newest
        rows = np.arange(newest.count, dtype=np.uint32)
        write_segment(path, self._scheme, "kept", rows=rows, keys=newest.keys, prints=newest.prints)
        return _opened(path)

    def _next_path(self) -> Path:
        self._num_segments += 1
        return self._directory / f"kept-{self._num_segments}.segment"


def _opened(path: Path) -> Segment:
    """The segment, mapped; its file has no name any more and is gone with it."""
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    path.unlink()
    return Segment(memoryview(mapped), str(path))
