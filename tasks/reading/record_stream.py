"""The bytes of a file of records (WARC), where damage costs what it hit and no more."""

import contextlib
import re
from collections.abc import Iterator

from tasks.line_stream import Compression, DamagedStreamError, Part, Readable, decompress_parts

_START = re.compile(rb"\n(?=WARC/\d)")
_TAIL_BYTES = 8
"""Of what was searched so much is looked at again: a start may lie across two chunks."""


class GapError(Exception):
    """Bytes are missing or are not what they should be here; the message says why."""


class RecordBytes:
    """Lines and blocks of a stream of bytes, some of which may be missing.

    Every method but ``to_next_record`` raises GapError where they are, EOFError where a packed file
    ends early, and OSError.
    """

    def __init__(
        self, file: Readable, compression: Compression, max_bytes: int | None = None
    ) -> None:
        """At the start of a file; of a packed one at most ``max_bytes`` are unpacked."""
        # Each record is packed by itself, so that after damage the next one can be found.
        self._chunks: Iterator[Part] = decompress_parts(file, compression, max_bytes=max_bytes)
        self._buffer = bytearray()

    def is_at_end(self) -> bool:
        """Whether nothing but line ends follows; passes over those."""
        while True:
            stripped = self._buffer.lstrip(b"\r\n")
            if stripped:
                self._buffer = stripped
                return False
            self._buffer.clear()
            if not self._fill():
                return True

    def line(self, limit: int) -> bytes:
        """The next line with its LF, without one at the end; GapError above ``limit`` bytes."""
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if searched > limit or not self._fill():
                end = searched - 1
                break
        if end >= limit:
            self._take(limit)
            raise GapError(f"expected a line of a record's head, found more than {limit} bytes")
        return self._take(end + 1)

    def read(self, size: int) -> bytes:
        """The next ``size`` bytes, less at the end."""
        while len(self._buffer) < size and self._fill():
            pass
        return self._take(size)

    def give_back(self, body: bytes) -> None:
        """Make ``body`` the next bytes."""
        self._buffer[:0] = body

    def to_next_record(self) -> bool:
        """Go to the next place where a record may begin, also here; False when there is none.

        Passes over what is missing on the way.
        """
        self.give_back(b"\n")
        while True:
            if match := _START.search(self._buffer):
                self._take(match.end())
                return True
            del self._buffer[:-_TAIL_BYTES]
            with contextlib.suppress(GapError):
                if not self._fill():
                    return False

    def _fill(self) -> bool:
        """Read on; False at the end."""
        for chunk in self._chunks:
            if isinstance(chunk, DamagedStreamError):
                # What follows is the begin of a member, where a record may begin.
                self._buffer[:] = b"\n"
                raise GapError(str(chunk))
            if chunk:
                self._buffer += chunk
                return True
        return False

    def _take(self, size: int) -> bytes:
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken
