"""Web pages: the main text, without menus, headers, footers and comments.

Reading a page and taking its main text are two steps: the second takes a hundred times as long, and
is done by those who prepare documents.
"""

import logging
import re
from collections.abc import Iterator
from dataclasses import replace

from tasks.documents import Document, Reject
from tasks.line_stream import Readable
from tasks.readers import BOM, Place, Record, read_whole

_DECLARED = re.compile(
    rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([\w.:-]{1,40})""", re.IGNORECASE
)
_LANGUAGE = re.compile(r"""<html[^>]{0,500}?\blang\s*=\s*["']?([A-Za-z]{2,3})\b""", re.IGNORECASE)
_HEAD_BYTES = 4096
"""Where a page declares its encoding and language."""
# What the web means by these names (WHATWG, Encoding Standard).
_WEB_NAMES = {"ascii": "cp1252", "us-ascii": "cp1252", "iso-8859-1": "cp1252", "latin1": "cp1252"}
_MARKS = ((BOM, "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))


def read_html(file: Readable, place: Place) -> Iterator[Record | Reject]:
    """The file as one document, a page."""
    body = read_whole(file, place)
    yield body if isinstance(body, Reject) else page(body, place, 0)


def page(body: bytes, place: Place, position: int, charset: str = "") -> Record | Reject:
    """A page as it is, whose main text is yet to be taken.

    Args:
        body: The page as it was served.
        place: Where it lies.
        position: Its number in the file.
        charset: The encoding that its server named.
    """
    try:
        text = decode_page(body, charset)
    except (LookupError, UnicodeError) as error:
        return place.reject(position, "bad_encoding", str(error))
    if "\0" in text:
        return place.reject(position, "nul_bytes", f"NUL at character {text.index(chr(0))}")
    if not text or text.isspace():
        return place.reject(position, "empty" if position else "empty_file", "there is no text")
    found = _LANGUAGE.search(text[:_HEAD_BYTES])
    language = found[1].lower() if found else ""
    return Record(position=position, text=text, language=language, is_page=True)


def with_main_text(document: Document) -> Document | Reject:
    """The document with the main text of its page; one that is no page as it is."""
    if not document.is_page:
        return document
    main = _main_text(document.text)
    if main and not main.isspace():
        return replace(document, text=main, is_page=False)
    detail = "nothing but menus, or no web page"
    return Reject(
        uri=document.uri, position=document.position, reason="no_main_text", detail=detail
    )


def decode_page(body: bytes, charset: str = "") -> str:
    """The page as text: by its mark, as UTF-8 where it is that, or as it or its server declares.

    UTF-8 goes before what is declared: text of another encoding is hardly ever UTF-8 by chance, and
    pages that are declared wrongly are common.

    Raises:
        LookupError: The declared encoding is not known.
        UnicodeError: The bytes are not of the declared encoding.
    """
    for mark, encoding in _MARKS:
        if body.startswith(mark):
            return body[len(mark) :].decode(encoding)
    declared = _DECLARED.search(body[:_HEAD_BYTES])
    name = (charset or (declared[1].decode("ascii", "replace") if declared else "utf-8")).lower()
    # Encodings that switch by escape sequences (ISO-2022-JP) are UTF-8 too, and mean other text.
    if b"\x1b" not in body:
        try:
            return body.decode()
        except UnicodeDecodeError:
            if name in ("utf-8", "utf8"):
                raise
    return body.decode(_WEB_NAMES.get(name, name))


def _main_text(text: str) -> str | None:
    # Takes a third of a second, which only those who read pages should pay.
    from trafilatura import extract  # noqa: PLC0415

    # Each page without a text would be an ERROR in the log; they are among the rejects.
    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)
    # fast: without comparing with two other extractors. The text of a page must not depend on the
    # pages before it, which deduplicate would bring.
    return extract(text, fast=True, include_comments=False, deduplicate=False)
