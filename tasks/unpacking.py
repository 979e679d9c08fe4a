"""The bytes of packed files: gzip, zstandard and bzip2; truncated, damaged or hostile ones too.

Each reader yields chunks of at most 256 KiB. It raises EOFError where the file ends early and
DamagedStreamError where the rest is lost; where more can be found behind damage, it yields the
error instead and goes on.
"""

import bz2
import re
import zlib
from collections.abc import Iterator
from typing import Any, Protocol, TypeAlias

import zstandard

_CHUNK_BYTES = 1 << 18
_GZIP_BYTES = 1 << 14
_GZIP_HEAD = re.compile(rb"\x1f\x8b\x08[\x00-\x1f].{4}[\x00\x02\x04][\x00-\x0d\xff]", re.DOTALL)
"""With flags, hint and system that there are: three bytes alone stand in packed data by chance."""
_GZIP_HEAD_BYTES = 10
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_DICTIONARY_MAGIC, _DICTIONARY_BYTES = b"\x5d\x2a\x4d\x18", 1 << 24
_SEARCHED_BYTES = 1 << 20
"""Of a damaged member so much is looked through for the begin of the next one."""
# Four bytes of zstd can stand for 128 KiB, so this bounds what a hostile file can fill to 8 MiB.
_ZSTD_BYTES = 1 << 8
_BZ2_HEAD, _BZ2_HEAD_BYTES = re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)"), 10
"""With the mark of a block, or of the end, which are the digits of pi and of its root."""
# What a call has decoded is lost when it meets damage: so few bytes rarely hold the end of a good
# block and the damage behind it.
_BZ2_BYTES = 1 << 4


class Readable(Protocol):
    """What is needed of an opened file."""

    def read(self, size: int, /) -> bytes:
        """At most ``size`` bytes, none at the end only. Raises OSError."""
        ...


class DamagedStreamError(Exception):
    """The compressed bytes are not what the compressor wrote."""


Part: TypeAlias = bytes | DamagedStreamError
"""Decompressed bytes, or why some are missing before the next ones."""


def gunzip(file: Readable) -> Iterator[Part]:
    """Not the gzip module: an error there loses up to a buffer of good bytes before it."""
    decoder = zlib.decompressobj(wbits=31)
    member = bytearray()
    is_lost = False
    pending = b""
    while True:
        piece, pending = pending or file.read(_GZIP_BYTES), b""
        if not piece:
            if decoder.eof or is_lost:
                return
            if not _GZIP_HEAD.search(member, 1):
                raise EOFError("the gzip stream ends before its end marker")
            # It was cut short and has taken the members behind it for its own.
            yield DamagedStreamError("a gzip member has no end marker")
            pending, is_lost = bytes(member)[1:], True
            member.clear()
            continue
        if is_lost:
            member += piece
            head = _GZIP_HEAD.search(member)
            if not head:
                del member[: 1 - _GZIP_HEAD_BYTES]
                continue
            piece = bytes(member[head.start() :])
        elif decoder.eof:
            piece = piece.lstrip(b"\0")  # some tools pad the end with zeros
            if not piece:
                continue
        if is_lost or decoder.eof:
            decoder, is_lost = zlib.decompressobj(wbits=31), False
            member.clear()
        before = decoder.copy()
        try:
            output = decoder.decompress(piece, _CHUNK_BYTES)
        except zlib.error as error:
            yield from _before_damage(before, piece)
            yield DamagedStreamError(str(error))
            # Without its first byte, so that the same member is not found again.
            pending, is_lost = bytes(member + piece)[1:], True
            member.clear()
            continue
        pending = decoder.unconsumed_tail or decoder.unused_data
        if len(member) <= _SEARCHED_BYTES:
            member += piece[: len(piece) - len(pending)]
        else:
            member.clear()
        yield output


def _before_damage(decoder: Any, piece: bytes) -> Iterator[bytes]:
    """What the call that met the damage had decoded before it."""
    for place in range(len(piece)):
        try:
            output = decoder.decompress(piece[place : place + 1])
        except zlib.error:
            return
        if output:
            yield output


def unzstd(file: Readable) -> Iterator[Part]:
    """Not zstandard's stream_reader: it takes a truncated file for a whole one.

    The dictionary of a web archive (the WARC file format for zstandard, IIPC) is used for all that
    follows.
    """
    source = _Rewindable(file)
    context = _zstd_context(source)
    decoder = context.decompressobj()
    frame = bytearray()
    is_lost = False
    while True:
        piece = source.read(_ZSTD_BYTES)
        if not piece:
            if decoder.eof or is_lost:
                return
            if frame.find(_ZSTD_MAGIC, 1) < 0:
                raise EOFError("the zstd stream ends before the end of its frame")
            # It was cut short and has taken the frames behind it for its own.
            yield DamagedStreamError("a zstd frame has no end")
            source.give_back(bytes(frame)[1:])
            frame.clear()
            is_lost = True
            continue
        frame += piece
        if is_lost:
            where = frame.find(_ZSTD_MAGIC)
            if where < 0:
                del frame[: 1 - len(_ZSTD_MAGIC)]
                continue
            source.give_back(bytes(frame[where:]))
            decoder, is_lost = context.decompressobj(), False
            frame.clear()
            continue
        if decoder.eof:
            decoder = context.decompressobj()
            frame = bytearray(piece)
        try:
            output = decoder.decompress(piece)
        except zstandard.ZstdError as error:
            yield DamagedStreamError(str(error))
            # Without its first byte, so that the same frame is not found again.
            source.give_back(bytes(frame)[1:])
            frame.clear()
            is_lost = True
            continue
        for start in range(0, len(output), _CHUNK_BYTES):
            yield output[start : start + _CHUNK_BYTES]
        if decoder.eof:
            source.give_back(decoder.unused_data)
        elif len(frame) > _SEARCHED_BYTES:
            frame.clear()


def _zstd_context(source: "_Rewindable") -> zstandard.ZstdDecompressor:
    """With the dictionary that the file begins with, if it does; a packed one is unpacked."""
    head = source.read_all(8)
    if head[:4] != _DICTIONARY_MAGIC or len(head) < 8:
        source.give_back(head)
        return zstandard.ZstdDecompressor()
    size = int.from_bytes(head[4:], "little")
    body = source.read_all(min(size, _DICTIONARY_BYTES + 1))
    if len(body) < size <= _DICTIONARY_BYTES:
        raise EOFError("the zstd stream ends before the end of its dictionary")
    try:
        if body.startswith(_ZSTD_MAGIC):
            stream = zstandard.ZstdDecompressor().stream_reader(body)
            body = stream.read(_DICTIONARY_BYTES + 1)
        if len(body) > _DICTIONARY_BYTES:
            raise DamagedStreamError(
                f"its dictionary has more than the {_DICTIONARY_BYTES:,} bytes that it may"
            )
        dictionary = zstandard.ZstdCompressionDict(body, dict_type=zstandard.DICT_TYPE_FULLDICT)
        return zstandard.ZstdDecompressor(dict_data=dictionary)
    except zstandard.ZstdError as error:
        raise DamagedStreamError(f"its dictionary cannot be read: {error}") from error


class _Rewindable:
    """A file some bytes of which can be given back; it is read in blocks of 16 KiB."""

    def __init__(self, file: Readable) -> None:
        self._file = file
        self._again: list[memoryview] = []
        """The next bytes, those of the last first."""

    def read(self, size: int) -> bytes:
        found = self._again.pop() if self._again else memoryview(self._file.read(_GZIP_BYTES))
        if len(found) > size:
            self._again.append(found[size:])
        return bytes(found[:size])

    def read_all(self, size: int) -> bytes:
        """``size`` bytes, less at the end only."""
        found = bytearray()
        while len(found) < size and (piece := self.read(size - len(found))):
            found += piece
        return bytes(found)

    def give_back(self, body: bytes) -> None:
        """Make ``body`` the next bytes."""
        if body:
            self._again.append(memoryview(body))


def unbz2(file: Readable) -> Iterator[Part]:
    """Not the bz2 module's file: it takes what follows a stream and is none for its end."""
    source = _Rewindable(file)
    decoder = bz2.BZ2Decompressor()
    stream = bytearray()
    is_lost = False
    while True:
        piece = source.read(_GZIP_BYTES if is_lost else _BZ2_BYTES)
        if not piece:
            if decoder.eof or is_lost:
                return
            if not _BZ2_HEAD.search(stream, 1):
                raise EOFError("the bzip2 stream ends before its end marker")
            # It was cut short and has taken the streams behind it for its own.
            yield DamagedStreamError("bzip2: a stream has no end marker")
            source.give_back(bytes(stream)[1:])
            stream.clear()
            is_lost = True
            continue
        stream += piece
        if is_lost:
            head = _BZ2_HEAD.search(stream)
            if not head:
                del stream[: 1 - _BZ2_HEAD_BYTES]
                continue
            source.give_back(bytes(stream[head.start() :]))
            decoder, is_lost = bz2.BZ2Decompressor(), False
            stream.clear()
            continue
        if decoder.eof:
            decoder = bz2.BZ2Decompressor()
            stream[:] = piece
        try:
            if output := decoder.decompress(piece, _CHUNK_BYTES):
                yield output
            while not (decoder.needs_input or decoder.eof):
                yield decoder.decompress(b"", _CHUNK_BYTES)
        except OSError as error:
            yield DamagedStreamError(f"bzip2: {error}")
            # Without its first byte, so that the same stream is not found again.
            source.give_back(bytes(stream)[1:])
            stream.clear()
            is_lost = True
            continue
        source.give_back(decoder.unused_data)
        if len(stream) > 2 * _SEARCHED_BYTES:
            del stream[:_SEARCHED_BYTES]
