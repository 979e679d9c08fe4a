import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.documents import Reject
from tasks.readers import FieldNames, Place, Record
from tasks.reading.html import decode_page, read_html
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


def test_the_text_of_a_page_does_not_depend_on_the_pages_before_it() -> None:
    first = [read(html("otters").encode()) for _ in range(5)]
    assert first == [first[0]] * 5
