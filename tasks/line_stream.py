"""Bytes of a possibly compressed, possibly damaged file, cut into lines in bounded memory."""

import bz2
import zlib
from collections.abc import Iterable, Iterator
from typing import IO, Literal

import zstandard

Compression = Literal["", "gz", "zst", "bz2"]

_CHUNK_BYTES = 1 << 18
_GZIP_BYTES = 1 << 14
# Four bytes of zstd can stand for 128 KiB, so this bounds what a hostile file can fill to 8 MiB.
_ZSTD_BYTES = 1 << 8
# What a call has decoded is lost when it meets damage: so few bytes rarely hold the end of a good
# block and the damage behind it.
_BZ2_BYTES = 1 << 4


class DamagedStreamError(Exception):
    """The compressed bytes are not what the compressor wrote."""


def decompress(file: IO[bytes], compression: Compression) -> Iterator[bytes]:
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


def _plain(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK_BYTES):
        yield chunk


def _gunzip(file: IO[bytes]) -> Iterator[bytes]:
    """Not the gzip module: an error there loses up to a buffer of good lines before it."""
    decoder = zlib.decompressobj(wbits=31)
    while piece := file.read(_GZIP_BYTES):
        while piece:
            if decoder.eof:
                piece = piece.lstrip(b"\0")  # some tools pad the end with zeros
                if not piece:
                    break
                decoder = zlib.decompressobj(wbits=31)
            yield decoder.decompress(piece, _CHUNK_BYTES)
            piece = decoder.unconsumed_tail or decoder.unused_data
    if not decoder.eof:
        raise EOFError("the gzip stream ends before its end marker")


def _unzstd(file: IO[bytes]) -> Iterator[bytes]:
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


def _unbz2(file: IO[bytes]) -> Iterator[bytes]:
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
