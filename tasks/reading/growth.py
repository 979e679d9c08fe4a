"""Files that only grow, as logs do: how much of one was read, and whether that part is as it was.

A mark (``tasks.marks``) is the entity tag of a file; of one that can be read on it has three more
words: the bytes up to the end of the last whole line, the lines in them, and their digest.
"""

from pathlib import Path
from typing import Any

import xxhash

from tasks.documents import ReadPart
from tasks.line_stream import Readable

_CHUNK_BYTES = 1 << 18


class GrowingFile:
    """Reads a file from behind a part that was read before, to a fixed end, and remembers how far.

    Raises ValueError at once when the part is not what it was.
    """

    def __init__(self, file: Readable, size: int, old: ReadPart | None = None) -> None:
        self._file = file
        self._left = size
        self._hash: Any = xxhash.xxh3_128()
        self._whole_lines: Any = self._hash.copy()
        self._num_bytes = self._num_whole = self._num_lines = self._num_ends = 0
        self._last = b""
        while old and self._num_bytes < old.num_bytes:
            if not self.read(min(_CHUNK_BYTES, old.num_bytes - self._num_bytes)):
                break
        if old and self.part != old:
            raise ValueError(f"its first {old.num_bytes} bytes are not those that were read before")

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes, none at the end."""
        chunk = self._file.read(min(size, self._left))
        self._left -= len(chunk)
        end = chunk.rfind(b"\n") + 1
        if end:
            view = memoryview(chunk)
            self._hash.update(view[:end])
            self._whole_lines = self._hash.copy()
            self._hash.update(view[end:])
            self._num_whole = self._num_bytes + end
            # The LF of a CR that the chunk before ended with was counted with it.
            is_counted = self._last == b"\r" and chunk.startswith(b"\n")
            self._num_ends += _line_ends(chunk, 0, end) - is_counted
            self._num_lines = self._num_ends
        else:
            self._hash.update(chunk)
        self._num_ends += _line_ends(chunk, end, len(chunk))
        self._last = chunk[-1:]
        self._num_bytes += len(chunk)
        return chunk

    @property
    def part(self) -> ReadPart:
        """What was read of it so far, without a line that has no end yet."""
        return ReadPart(self._num_whole, self._num_lines, self._whole_lines.hexdigest())


def is_unchanged(path: Path, part: ReadPart) -> bool:
    """Whether a file still begins with ``part``; reads that much of it. Raises OSError."""
    with path.open("rb") as file:
        try:
            GrowingFile(file, part.num_bytes, part)
        except ValueError:
            return False
    return True


def mark_of(etag: str, part: ReadPart | None) -> str:
    """The mark of a file that was read."""
    return f"{etag} {part.num_bytes} {part.num_lines} {part.digest}" if part else etag


def read_mark(mark: str) -> tuple[str, ReadPart | None]:
    """Entity tag of a mark, and the part of the file that needs no second reading."""
    etag, *words = mark.split(" ")
    if len(words) != 3:
        return etag, None
    num_bytes, num_lines, digest = words
    return etag, ReadPart(int(num_bytes), int(num_lines), digest)


def _line_ends(chunk: bytes, start: int, end: int) -> int:
    """How many lines end in a part of a chunk, as ``split_lines`` has it."""
    num_ends = chunk.count(b"\n", start, end)
    if b"\r" in chunk:
        num_ends += chunk.count(b"\r", start, end) - chunk.count(b"\r\n", start, end)
    return num_ends
