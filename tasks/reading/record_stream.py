"""The bytes of a file of records (WARC), where damage costs what it hit and no more."""

import contextlib
import re
from collections.abc import Iterator

from tasks.line_stream import Compression, DamagedStreamError, Part, Readable, decompress_parts

_HERE, _BELOW = re.compile(rb"WARC/\d"), re.compile(rb"\n(?=WARC/\d)")
_FILLED = re.compile(rb"[^\r\n]")
_END = b"\r\n\r\n"
_LENIENT_END = re.compile(rb"[\r\n]+(?:W|\Z)|\Z")
"""There are writers to whom a line ends with LF, and files that are cut in the middle of an end."""
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
            if match := _FILLED.search(self._buffer):
                del self._buffer[: match.start()]
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

    def peek(self, size: int) -> bytes:
        """The next ``size`` bytes, less at the end; they stay the next ones."""
        while len(self._buffer) < size and self._fill():
            pass
        return bytes(self._buffer[:size])

    def block(self, size: int) -> bytes | None:
        """The next ``size`` bytes, if an end of a record follows: line ends, or that of the file.

        Nothing is taken where something else follows: the size may be wrong, and the next record
        begin inside of these bytes.
        """
        while len(self._buffer) < size and self._fill():
            pass
        # No more than is needed: what follows may be missing, and this would be lost with it.
        if len(self._buffer) == size:
            self._fill()
        behind = bytes(self._buffer[size : size + _TAIL_BYTES])
        if len(self._buffer) < size or not (behind.startswith(_END) or _LENIENT_END.match(behind)):
            return None
        return self._take(size)

    def give_back(self, body: bytes) -> None:
        """Make ``body`` the next bytes."""
        self._buffer[:0] = body

    def to_next_record(self) -> bool:
        """Go to the next place where a record may begin, also here; False when there is none.

        Passes over what is missing on the way.
        """
        while len(self._buffer) < _TAIL_BYTES and self._fill_past_gaps():
            pass
        while not _HERE.match(self._buffer):
            if match := _BELOW.search(self._buffer):
                del self._buffer[: match.end()]
                return True
            del self._buffer[:-_TAIL_BYTES]
            if not self._fill_past_gaps():
                return False
        return True

    def _fill_past_gaps(self) -> bool:
        """Read on, also over what is missing; False at the end."""
        with contextlib.suppress(GapError):
            return self._fill()
        return True

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
