"""A server's answer as web archives hold it: its head, and its body unpacked as it was served.

The head and chunks are read with warcio. Bodies are unpacked here: warcio 1.8 cannot use the
brotli that is current, does not know zstandard, and bounds nothing.
"""

import io
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

_PROTOCOLS = ["HTTP/1.0", "HTTP/1.1", "HTTP/2.0", "HTTP/2"]
_GZIP_OR_ZLIB, _BARE_DEFLATE = 47, -15
_PIECE_BYTES = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a server answered."""

    status: str
    """Such as ``200``."""
    content_type: str
    packings: tuple[str, ...] = ()
    """By their names in HTTP, in the order in which they were done."""
    packed: bytes = field(repr=False)

    def body(self, limit: int) -> bytes:
        """Unpacked, at most ``limit`` + 1 bytes of it; of one that was cut off what there is.

        Servers do send what is not packed as they say: it is taken as it is.

        Raises:
            ValueError: It is damaged.
        """
        body = self.packed
        for name in reversed(self.packings):
            if unpack := _UNPACK.get(name):
                body = unpack(body, limit + 1)
        return body


def read_answer(block: bytes) -> Answer:
    """The answer in a record's block, or in the beginning of one.

    Raises:
        ValueError: It is no answer of a server.
    """
    from warcio.bufferedreaders import ChunkedDataReader  # noqa: PLC0415  only archives need these
    from warcio.statusandheaders import (  # noqa: PLC0415
        StatusAndHeadersParser,
        StatusAndHeadersParserException,
    )

    stream = io.BytesIO(block)
    try:
        head = StatusAndHeadersParser(_PROTOCOLS).parse(stream)
    except (StatusAndHeadersParserException, EOFError) as error:
        raise ValueError(f"the server's answer cannot be read: {error}") from error
    is_chunked = (head.get_header("transfer-encoding") or "").strip().lower() == "chunked"
    names = (head.get_header("content-encoding") or "").lower().split(",")
    return Answer(
        status=head.get_statuscode(),
        content_type=head.get_header("content-type") or "",
        packings=tuple(name.strip() for name in names),
        packed=_joined(ChunkedDataReader(stream)) if is_chunked else stream.read(),
    )


def _joined(chunks: Any) -> bytes:
    pieces: list[bytes] = []
    while piece := chunks.read(_PIECE_BYTES):
        pieces.append(piece)
    return b"".join(pieces)


def _inflated(body: bytes, size: int) -> bytes:
    for window in (_GZIP_OR_ZLIB, _BARE_DEFLATE):
        decoder = zlib.decompressobj(window)
        try:
            return decoder.decompress(body, size)
        except zlib.error as error:
            # Of bytes that only look like it a few may come out before that is known.
            if window == _GZIP_OR_ZLIB and _is_gzip_or_zlib(body):
                raise ValueError(f"the page's bytes cannot be unpacked: {error}") from error
    return body


def _is_gzip_or_zlib(body: bytes) -> bool:
    is_zlib = len(body) > 1 and body[0] & 15 == 8 and int.from_bytes(body[:2], "big") % 31 == 0
    return body.startswith(b"\x1f\x8b\x08") or is_zlib


def _unbrotlied(body: bytes, size: int) -> bytes:
    import brotli  # noqa: PLC0415  only archives need it

    decoder: Any = brotli.Decompressor()
    try:
        return decoder.process(body, output_buffer_limit=size)[:size]
    except brotli.error as error:
        # The format has no mark. Pages are nearly all text, which is no brotli.
        if not body.lstrip().startswith(b"<"):
            raise ValueError(f"the page's bytes cannot be unpacked: brotli: {error}") from error
        return body


def _unzstd(body: bytes, size: int) -> bytes:
    import zstandard  # noqa: PLC0415

    if not body.startswith(b"\x28\xb5\x2f\xfd"):
        return body
    try:
        stream = zstandard.ZstdDecompressor().stream_reader(body, read_across_frames=True)
        return stream.read(size)
    except zstandard.ZstdError as error:
        raise ValueError(f"the page's bytes cannot be unpacked: {error}") from error


_UNPACK: Mapping[str, Callable[[bytes, int], bytes]] = MappingProxyType(
    {
        "gzip": _inflated,
        "x-gzip": _inflated,
        "deflate": _inflated,
        "br": _unbrotlied,
        "zstd": _unzstd,
    }
)
