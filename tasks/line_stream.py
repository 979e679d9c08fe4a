"""Bytes of a possibly compressed, possibly damaged file, cut into lines in bounded memory."""

import bz2
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, Literal, Protocol

import zstandard

Compression = Literal["", "gz", "zst", "bz2"]

_CHUNK_BYTES = 1 << 18
_GZIP_BYTES = 1 << 14
_GZIP_MAGIC = b"\x1f\x8b\x08"
# Four bytes of zstd can stand for 128 KiB, so this bounds what a hostile file can fill to 8 MiB.
_ZSTD_BYTES = 1 << 8
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


def decompress(file: Readable, compression: Compression) -> Iterator[bytes]:
    """Chunks of the decompressed bytes, each of at most 256 KiB.

    Raises:
        EOFError: The file ends early; everything before its end was yielded.
        DamagedStreamError: The bytes are damaged; what was yielded precedes the damage, or for a
            wrong checksum, what it covers.
        OSError: The file cannot be read.
    """
    try:
        if compression == "gz":
            yield from _gunzip(file)
        elif compression == "zst":
            yield from _unzstd(file)
        elif compression == "bz2":
            yield from _unbz2(file)
        else:
            yield from _plain(file)
    except (zlib.error, zstandard.ZstdError) as error:
        raise DamagedStreamError(str(error)) from error


def split_lines(chunks: Iterable[bytes], limit: int) -> Iterator[bytes | None]:
    """Lines without their LF; None for one of more than ``limit`` bytes, whose rest is skipped."""
    pending: list[bytes] = []
    size = 0
    for chunk in chunks:
        for index, piece in enumerate(chunk.split(b"\n")):
            if index:
                yield b"".join(pending) if size <= limit else None
                pending, size = [], 0
            size += len(piece)
            if size <= limit:
                pending.append(piece)
            else:
                pending.clear()
    if size:
        yield b"".join(pending) if size <= limit else None


def _plain(file: Readable) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK_BYTES):
        yield chunk


def _gunzip(file: Readable) -> Iterator[bytes]:
    for output in gunzip_members(file):
        if isinstance(output, DamagedStreamError):
            raise output
        yield output


def gunzip_members(
    file: Readable, *, searched_bytes: int = 0
) -> Iterator[bytes | DamagedStreamError]:
    """The decompressed chunks; where some are missing, the error, and then the next member's.

    Not the gzip module: an error there loses up to a buffer of good bytes before it, and all after.

    Args:
        file: Opened at its start.
        searched_bytes: A damaged member is looked through for the begin of the next one when it has
            at most so many bytes; of a larger one only what lies behind the damage is.

    Raises:
        EOFError: The file ends early.
        OSError: The file cannot be read.
    """
    decoder = zlib.decompressobj(wbits=31)
    member = bytearray()
    is_lost = False
    pending = b""
    while piece := pending or file.read(_GZIP_BYTES):
        pending = b""
        if is_lost:
            member += piece
            where = member.find(_GZIP_MAGIC)
            if where < 0:
                del member[: 1 - len(_GZIP_MAGIC)]
                continue
            piece = bytes(member[where:])
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
        if searched_bytes and len(member) <= searched_bytes:
            member += piece[: len(piece) - len(pending)]
        elif member:
            member.clear()
        yield output
    if not (decoder.eof or is_lost):
        raise EOFError("the gzip stream ends before its end marker")


def _before_damage(decoder: Any, piece: bytes) -> Iterator[bytes]:
    """What the call that met the damage had decoded before it."""
    for place in range(len(piece)):
        try:
            output = decoder.decompress(piece[place : place + 1])
        except zlib.error:
            return
        if output:
            yield output


def _unzstd(file: Readable) -> Iterator[bytes]:
    """Not zstandard's stream_reader: it takes a truncated file for a whole one."""
    context = zstandard.ZstdDecompressor()
    decoder = context.decompressobj()
    while piece := file.read(_ZSTD_BYTES):
        while piece:
            if decoder.eof:
                decoder = context.decompressobj()
            output = decoder.decompress(piece)
            for start in range(0, len(output), _CHUNK_BYTES):
                yield output[start : start + _CHUNK_BYTES]
            piece = decoder.unused_data
    if not decoder.eof:
        raise EOFError("the zstd stream ends before the end of its frame")


def _unbz2(file: Readable) -> Iterator[bytes]:
    """Not the bz2 module's file: it takes what follows a stream and is none for its end."""
    decoder = bz2.BZ2Decompressor()
    while buffer := file.read(_GZIP_BYTES):
        for start in range(0, len(buffer), _BZ2_BYTES):
            piece = buffer[start : start + _BZ2_BYTES]
            while piece or not (decoder.needs_input or decoder.eof):
                if decoder.eof:
                    decoder = bz2.BZ2Decompressor()
                try:
                    output = decoder.decompress(piece, _CHUNK_BYTES)
                except OSError as error:
                    raise DamagedStreamError(f"bzip2: {error}") from error
                if output:
                    yield output
                piece = decoder.unused_data
    if not decoder.eof:
        raise EOFError("the bzip2 stream ends before its end marker")
