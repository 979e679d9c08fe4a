"""Web pages: the main text, without menus, headers, footers and comments.

Reading a page and taking its main text are two steps: the second takes a hundred times as long, and
is done by those who prepare documents.
"""

import contextlib
import logging
import re
from collections.abc import Iterator
from dataclasses import replace

from tasks.documents import Document, Reject
from tasks.line_stream import Readable
from tasks.readers import BOM, Place, Record, read_whole
from tasks.reading.web_encodings import codec_of

_DECLARED = re.compile(
    rb"""<(?:meta[^>]{0,200}?charset|\?xml[^>]{0,100}?encoding)\s*=\s*["']?\s*([\w.:-]{1,40})""",
    re.IGNORECASE,
)
_LANGUAGE = re.compile(r"""<html[^>]{0,500}?\blang\s*=\s*["']?([A-Za-z]{2,3})\b""", re.IGNORECASE)
_HEAD_BYTES = 4096
"""Where a page declares its encoding and language."""
_TOLD_BY = 50
"""Characters of a page in which trafilatura looks for ``html``."""
_UTF16 = ("utf-16-le", "utf-16-be")
_MARKS = ((BOM, "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
_ELEMENT = re.compile(r"\s*<[a-z!]", re.IGNORECASE)
_BLOCK = re.compile(r"<(?=(?:/?pre|p|div|li|d[dt]|t[dhr]|h[1-6]|section|article)\b)", re.IGNORECASE)
_LINE_END = re.compile(r"<br\b", re.IGNORECASE)
_ROW, _CELL = re.compile(r"<tr\b", re.IGNORECASE), re.compile(r"<t[dh]\b", re.IGNORECASE)
_MOST_TAGS, _MOST_TAGS_OF_A_BLOCK, _MOST_TAGS_OF_CODE, _MOST_CELLS = 200_000, 10_000, 50_000, 5_000
"""Of a page, a paragraph, a listing of code and a row of a table. Taking the main text takes time
in proportion to the first, some seconds for so many, and in the square of each of the others or
more, about a second for so many."""
_MOST_LONG_BLOCKS = 3.0
"""How many of the longest paragraphs a page may have, or as much work in shorter ones."""


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
    reason, detail = "no_main_text", "nothing but menus, or no web page"
    if problem := _too_many_tags(document.text):
        reason, detail = "too_many_tags", problem
    elif (main := _main_text(document.text)) and not main.isspace():
        return replace(document, text=main, is_page=False)
    return Reject(uri=document.uri, position=document.position, reason=reason, detail=detail)


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
    name = charset or (declared[1].decode("ascii", "replace") if declared else "utf-8")
    # By these, bytes that are valid UTF-8 too may mean other text: ISO-2022-JP switches by escape
    # sequences, and English in UTF-16 has a NUL for every letter.
    if b"\x1b" not in body and not (charset and b"\0" in body):
        with contextlib.suppress(UnicodeDecodeError):
            return body.decode()
    codec = codec_of(name)
    # That it is UTF-16 a page cannot declare in single bytes.
    return body.decode("utf-8" if codec in _UTF16 and not charset else codec)


def _too_many_tags(text: str) -> str:
    """How many too many tags a page has, "" when it can be read in good time."""
    num_tags = text.count("<")
    if num_tags <= _MOST_TAGS_OF_A_BLOCK:
        return ""
    if num_tags > _MOST_TAGS:
        return f"the page has {num_tags:,} tags, at most {_MOST_TAGS:,} are read"
    work = 0.0
    for block in _BLOCK.split(text):
        num_tags = block.count("<") - len(_LINE_END.findall(block))
        is_code = block[:3].lower() == "pre"
        most = _MOST_TAGS_OF_CODE if is_code else _MOST_TAGS_OF_A_BLOCK
        if num_tags > most:
            kind = "listing" if is_code else "paragraph"
            return f"a {kind} has {num_tags:,} tags, at most {most:,} are read"
        work += (num_tags / most) ** 2
    if work > _MOST_LONG_BLOCKS:
        return f"the page has {work:.1f} times the longest paragraph, at most {_MOST_LONG_BLOCKS}"
    most = max(len(_CELL.findall(row)) for row in _ROW.split(text))
    if most > _MOST_CELLS:
        return f"a row of a table has {most:,} cells, at most {_MOST_CELLS:,} are read"
    return ""


def _main_text(text: str) -> str | None:
    # Takes a third of a second, which only those who read pages should pay.
    from trafilatura import extract  # noqa: PLC0415

    from tasks.reading.page_elements import use_fast_elements  # noqa: PLC0415

    use_fast_elements()
    # Each page without a text would be an ERROR in the log; they are among the rejects.
    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)
    # It takes what begins with an element, but never says html, for a piece of a page or none.
    if "html" not in text[:_TOLD_BY].lower() and _ELEMENT.match(text):
        text = f"<html>{text}"
    # fast: without comparing with two other extractors. The text of a page must not depend on the
    # pages before it, which deduplicate would bring.
    return extract(text, fast=True, include_comments=False, deduplicate=False)
