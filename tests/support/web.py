"""Web pages and archives of them, made for tests."""

import base64
import gzip
import hashlib
from collections.abc import Sequence
from dataclasses import replace

import zstandard

from tasks.documents import Reject
from tasks.readers import Record
from tasks.reading.html import with_main_text
from tests.support.spooled import document

DATE = "2024-05-06T07:08:09Z"


def sentences(topic: str) -> str:
    """Enough prose that it is the main text of its page."""
    return " ".join(
        f"Sentence {number} tells something about {topic} that no other page says so."
        for number in range(6)
    )


def html(topic: str, *, head: str = "") -> str:
    """A page about ``topic`` between a menu and a footer."""
    return (
        f'<!DOCTYPE html><html lang="en-GB"><head>{head}<title>{topic}</title></head><body>'
        '<nav><ul><li><a href="/">Home</a></li><li><a href="/all">All pages</a></li></ul></nav>'
        f"<article><h1>About {topic}</h1><p>{sentences(topic)}</p></article>"
        "<footer>Imprint and privacy</footer></body></html>"
    )


def with_text(item: Record | Reject) -> Record | Reject:
    """What was read, with the main text of its page taken as a refresh takes it."""
    if isinstance(item, Reject):
        return item
    page = replace(document("page", item.text), position=item.position, is_page=item.is_page)
    main = with_main_text(page)
    if isinstance(main, Reject):
        return main
    return replace(item, text=main.text, is_page=False)


def record(head: Sequence[tuple[str, str]], block: bytes) -> bytes:
    """One record, packed as a gzip member of its own."""
    digest = base64.b32encode(hashlib.sha1(block, usedforsecurity=False).digest()).decode()
    fields = [*head, ("WARC-Block-Digest", f"sha1:{digest}"), ("Content-Length", str(len(block)))]
    lines = ["WARC/1.0", *(f"{name}: {value}" for name, value in fields)]
    body = "\r\n".join(lines).encode() + b"\r\n\r\n" + block + b"\r\n\r\n"
    return gzip.compress(body, mtime=0)


def answer(
    topic: str,
    *,
    status: str = "200 OK",
    content_type: str = "text/html",
    body: bytes | None = None,
    fields: Sequence[tuple[str, str]] = (),
) -> bytes:
    """A record of a server's answer with the page about ``topic``."""
    http = [f"{name}: {value}" for name, value in [("Content-Type", content_type), *fields]]
    block = "\r\n".join([f"HTTP/1.1 {status}", *http]).encode() + b"\r\n\r\n"
    head = [
        ("WARC-Type", "response"),
        ("WARC-Target-URI", f"https://www.{topic}.example/page"),
        ("WARC-Date", DATE),
        ("Content-Type", "application/http; msgtype=response"),
    ]
    return record(head, block + (html(topic).encode() if body is None else body))


def conversion(text: bytes, *, languages: str = "eng,deu") -> bytes:
    """A record of a WET file."""
    head = [
        ("WARC-Type", "conversion"),
        ("WARC-Target-URI", "https://wet.example/"),
        ("WARC-Date", DATE),
        ("WARC-Identified-Content-Language", languages),
        ("Content-Type", "text/plain"),
    ]
    return record(head, text)


def info() -> bytes:
    """The record that archives begin with."""
    head = [("WARC-Type", "warcinfo"), ("Content-Type", "application/warc-fields")]
    return record(head, b"software: a test\r\n")


def unpacked(records: bytes) -> bytes:
    """Packed records as they lie in a plain archive."""
    return gzip.decompress(records)


def repacked(one: bytes, dictionary: bytes = b"") -> bytes:
    """A record packed with gzip as a frame of zstandard."""
    with_it = zstandard.ZstdCompressionDict(dictionary) if dictionary else None
    return zstandard.ZstdCompressor(dict_data=with_it).compress(unpacked(one))
