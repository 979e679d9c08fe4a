"""Bytes of a possibly compressed, possibly damaged file, cut into lines in bounded memory."""

from collections.abc import Iterable, Iterator
from typing import Literal

from tasks.unpacking import DamagedStreamError, Part, Readable, gunzip, unbz2, unzstd

Compression = Literal["", "gz", "zst", "bz2"]

_CHUNK_BYTES = 1 << 18
_MOST_FALSE_STARTS = 100
"""In a row, after which the rest is given up: a hostile file may be made of nothing else."""


class ExpansionError(DamagedStreamError):
    """The compressed bytes stand for more than they may."""


def decompress(
    file: Readable, compression: Compression, *, max_bytes: int | None = None
) -> Iterator[bytes]:
    """Chunks of the decompressed bytes, each of at most 256 KiB, up to the first damage.

    Raises as ``decompress_parts``, and DamagedStreamError: what was yielded precedes the damage, or
    for a wrong checksum, what it covers.
    """
    return until_damage(decompress_parts(file, compression, max_bytes=max_bytes))


def until_damage(parts: Iterator[Part]) -> Iterator[bytes]:
    """The bytes up to the next damage, which is raised; what follows it is still to be had."""
    for part in parts:
        if isinstance(part, DamagedStreamError):
            raise part
        yield part


def decompress_parts(
    file: Readable, compression: Compression, *, max_bytes: int | None = None
) -> Iterator[Part]:
    """Chunks of at most 256 KiB; where some are missing an error, and then what comes after.

    After damage it goes on where a member of gzip, a frame of zstandard or a stream of bzip2
    begins, as in files that were joined or are written record by record. What is damaged at once
    again is not told twice.

    Args:
        file: Opened at its start.
        compression: What it is packed with.
        max_bytes: Decompressed bytes that a packed file may have.

    Raises:
        EOFError: The file ends early; everything before its end was yielded.
        DamagedStreamError: The rest cannot be read.
        ExpansionError: There are more than ``max_bytes``; so many were yielded.
        OSError: The file cannot be read.
    """
    if not compression:
        yield from _plain(file)
        return
    unpack = {"gz": gunzip, "zst": unzstd, "bz2": unbz2}[compression]
    size = num_lost = 0
    for part in unpack(file):
        if isinstance(part, DamagedStreamError):
            if not num_lost:
                yield part
            num_lost += 1
            if num_lost > _MOST_FALSE_STARTS:
                return
        elif part:
            num_lost = 0
            size += len(part)
            if max_bytes is not None and size > max_bytes:
                raise ExpansionError(
                    f"the file unpacks to more than the {max_bytes:,} bytes that it may; raise "
                    "max_expansion or max_unpacked_bytes of the source if it is meant to"
                )
            yield part


def split_lines(chunks: Iterable[bytes], limit: int) -> Iterator[bytes | None]:
    """Lines; None for one of more than ``limit`` bytes, whose rest is skipped.

    LF, CR LF and CR alone end a line, as in editors. An LF that ends one is taken off; a CR, or a
    CR and its LF, stays and counts, so that who reads a format knows what was there. Raises what
    ``chunks`` raises, after the last whole line before that.
    """
    pending: list[bytes] = []
    size = 0
    held = b""
    try:
        for chunk in chunks:
            body = held + chunk
            # The LF of a last CR may be the next chunk's first byte.
            held = b"\r" if body.endswith(b"\r") else b""
            first, *others = _split(body.removesuffix(held))
            size += len(first)
            if size <= limit:
                pending.append(first)
            else:
                pending.clear()
            if others:
                last = others.pop()
                yield b"".join(pending) if size <= limit else None
                for line in others:
                    yield line if len(line) <= limit else None
                pending, size = [last][: len(last) <= limit], len(last)
    except (EOFError, DamagedStreamError, OSError):
        if held:
            yield b"".join([*pending, held]) if size < limit else None
        raise
    if size or held:
        yield b"".join([*pending, held]) if size + len(held) <= limit else None


def _split(chunk: bytes) -> list[bytes]:
    """Lines as ``split_lines`` has them; the last one has no end, and may be empty."""
    if b"\r" not in chunk:
        return chunk.split(b"\n")
    lines = chunk.splitlines(keepends=True)
    if lines[-1].endswith((b"\r", b"\n")):
        lines.append(b"")
    return [line if line.endswith(b"\r\n") else line.removesuffix(b"\n") for line in lines]


def _plain(file: Readable) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK_BYTES):
        yield chunk
