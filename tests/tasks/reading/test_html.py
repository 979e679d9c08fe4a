import io
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml.etree import ElementDefaultClassLookup, HTMLParser
from lxml.html import fromstring
from trafilatura import main_extractor

from tasks.documents import Reject
from tasks.readers import FieldNames, Place, Record
from tasks.reading.html import decode_page, read_html
from tasks.reading.page_elements import IN_ONE_STEP, PageElement
from tests.support.web import html, sentences, with_text

PLACE = Place(uri="/data/a.html", fields=FieldNames(), max_document_bytes=1_000_000)


def read(body: bytes) -> Record | Reject:
    [item] = read_html(io.BytesIO(body), PLACE)
    assert isinstance(item, Reject) or item.is_page
    return with_text(item)


def test_the_main_text_is_taken_without_menu_and_footer() -> None:
    record = read(html("otters").encode())
    assert isinstance(record, Record)
    assert record.text == f"About otters\n{sentences('otters')}"
    assert (record.position, record.language) == (0, "en")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "empty_file"),
        (b" \n", "empty_file"),
        (b"<html><body><script>run()</script></body></html>", "no_main_text"),
        (b'{"json": "and no page"}', "no_main_text"),
        ("<p>caf\u00e9</p>".encode("latin-1"), "bad_encoding"),
        (b"<meta charset=nonsense><p>caf\xe9</p>", "bad_encoding"),
        (b"<meta charset=hex><p>caf\xe9</p>", "bad_encoding"),
        # A codec of Python that no browser has; this one would make half a surrogate pair.
        (b"<meta charset=unicode_escape><p>caf\xe9 \\ud800</p>", "bad_encoding"),
        (b"<meta charset=utf-16><p>caf\xe9</p>", "bad_encoding"),
        (b"<p>" + b"<a href=x>word</a> " * 20_000, "too_many_tags"),
        (b"<p>a" * 200_001, "too_many_tags"),
        ((b"<p>" + b"<a href=x>word</a> " * 4_900) * 5, "too_many_tags"),
        (b"<pre>" + b"<i>x</i>" * 30_000, "too_many_tags"),
        (b"<table><tr>" + b"<td>x" * 10_001, "too_many_tags"),
        (b"<p>\0</p>", "nul_bytes"),
        (b"x" * 1_000_001, "oversized"),
        (b"<div>" * 100_000, "no_main_text"),
    ],
)
def test_a_file_that_is_no_page_is_one_reject(body: bytes, reason: str) -> None:
    item = read(body)
    assert isinstance(item, Reject)
    assert (item.position, item.reason) == (0, reason)


@pytest.mark.parametrize(
    ("encoding", "declared"),
    [
        ("utf-8", ""),
        ("utf-8-sig", "latin-1"),
        ("utf-8", "iso-8859-1"),
        ("cp1252", "iso-8859-1"),
        ("koi8-r", "koi8-r"),
        ("shift_jis", "Shift_JIS"),
        ("iso-2022-jp", "iso-2022-jp"),
        # What browsers take these names for has more letters than they say.
        ("cp932", "Shift_JIS"),
        ("cp949", "euc-kr"),
        ("gb18030", "gb2312"),
        ("cp874", "TIS-620"),
        ("utf-8", "a name that nobody knows"),
        ("utf-16", ""),
    ],
)
def test_a_page_is_decoded_as_it_is_or_as_it_declares(encoding: str, declared: str) -> None:
    letters = {
        "koi8-r": "\u0436\u0443\u043a",
        "cp1252": "\u20ac caf\u00e9",
        "cp932": "\u2460\u9ad9",
        "cp949": "\ub620\ubc29\uac01\ud558",
        "gb18030": "\u9555",
        "cp874": "\u20ac\u0e44\u0e17\u0e22",
    }
    text = f"<meta charset='{declared}'>" + letters.get(encoding, "\u3053\u3093")
    assert decode_page(text.encode(encoding)) == text
    bare = text.partition(">")[2]
    assert decode_page(bare.encode(encoding), declared) == bare


def test_a_server_may_say_that_english_is_utf16_and_a_page_may_not() -> None:
    assert decode_page("<p>wide".encode("utf-16-le"), "utf-16le") == "<p>wide"
    narrow = "<meta charset=utf-16><p>caf\u00e9"
    assert decode_page(narrow.encode()) == narrow


def test_xml_may_name_its_encoding_at_its_beginning() -> None:
    page = "<?xml version='1.0' encoding='iso-8859-1'?>" + html("caf\u00e9-life")
    record = read(page.encode("latin-1"))
    assert isinstance(record, Record)
    assert record.text.startswith("About caf\u00e9-life")


@pytest.mark.parametrize("page", ["<p>{}", "<!-- saved --><p>{}</p>", "<title>x</title><p>{}"])
def test_a_page_may_leave_out_html_head_and_body(page: str) -> None:
    record = read(page.format(sentences("otters")).encode())
    assert isinstance(record, Record)
    assert sentences("otters") in record.text


@given(
    st.binary(max_size=300)
    | st.text(alphabet='<>/ap="é&;#1 \x00\ud800').map(
        lambda text: f"<p>{text}".encode(errors="surrogatepass")
    )
)
def test_any_bytes_are_one_page_or_reject(body: bytes) -> None:
    assert isinstance(read(body), Record | Reject)


_ROWS = "<tr><td>{0}</td><td>some words of it</td><td><b>{0}</b></td><td>x</td></tr>"
_LONG = {
    "table": ("<table>", _ROWS, 10_000),
    "thread": (
        "",
        "<div><a href=/u>user {0}</a><p>post {0} has <i>words</i> in it</p></div>",
        9_000,
    ),
    "manual": ("", "<h2>part {0}</h2><p>as <code>it {0}</code> is <a href=x>here</a></p>", 12_000),
    "verses": ("", "<p><b><sup>{0}</sup></b> and so it was, said {0}</p>", 24_000),
    "listing": ("<pre>", "<span>line</span> of {0}\n", 20_000),
    "poem": ("<p>", "a line of number {0}<br>\n", 60_000),
}


@pytest.mark.parametrize("kind", _LONG)
def test_a_long_page_of_an_ordinary_kind_is_read_in_seconds(kind: str) -> None:
    begin, part, number = _LONG[kind]
    body = "".join(part.format(each) for each in range(number))
    page = f"<html><body><article><p>{sentences('otters')}</p>{begin}{body}"
    where = replace(PLACE, max_document_bytes=10_000_000)
    [item] = read_html(io.BytesIO(page.encode()), where)
    start = time.process_time()
    record = with_text(item)
    assert time.process_time() - start < 20
    assert isinstance(record, Record)
    assert str(number - 1) in record.text


def _nodes(tree: Any, path: str) -> list[str]:
    """What a path finds, as places in the tree or as text."""
    found = tree.xpath(path)
    return [
        str(node) if isinstance(node, str) else tree.getroottree().getpath(node) for node in found
    ]


_WORDS = ("p", "b", "div", "pre", "code", "quote", "table", "/p", "/div", "/b", "/code", "x")


@given(st.lists(st.sampled_from(_WORDS)))
def test_what_is_looked_up_in_one_step_is_what_the_path_finds(words: list[str]) -> None:
    page = "<html><body>" + "".join(
        "text" if word == "x" else f"<{word} class=w3-code>" if word == "div" else f"<{word}>"
        for word in words
    )
    parser = HTMLParser()
    parser.set_element_class_lookup(ElementDefaultClassLookup(element=PageElement))
    fast, slow = fromstring(page, parser=parser), fromstring(page)
    for path in IN_ONE_STEP:
        assert _nodes(fast, path) == _nodes(slow, path)


def test_trafilatura_asks_for_the_paths_that_are_looked_up_faster() -> None:
    source = Path(main_extractor.__file__).read_text()
    assert [path for path in IN_ONE_STEP if f'"{path}"' not in source] == []


def test_the_text_of_a_page_does_not_depend_on_the_pages_before_it() -> None:
    first = [read(html("otters").encode()) for _ in range(5)]
    assert first == [first[0]] * 5
