import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tasks.curation.normalise import mend, normalise

# What UTF-8 looks like when it was read as Latin-1 or Windows-1252, once or twice.
BROKEN = st.text(
    st.sampled_from(
        "\u00c3\u00a9\u00e2\u20ac\u2122\u00bc\u00b6\u00c2\u00a0\u0153 aeZ\n\r\0\u0301\ufffd"
    )
)


# The first call imports ftfy.
@settings(deadline=None)
@given(BROKEN | st.text())
@example("\u00c3\u0192\u00c2\u00a9")
@example("\u00e2\u20ac\u2122\n\u00c3\u00a9")
def test_mending_twice_changes_nothing_more(text: str) -> None:
    once = mend(text)
    assert mend(once) == once
    assert normalise(once) == once


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126)))
def test_plain_text_is_left_alone(text: str) -> None:
    assert mend(text) == text


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Schöne Grüße aus Köln", "latin-1"),
        ("Schöne Grüße aus Köln", "windows-1252"),
        ("L'été à la plage", "latin-1"),
        ("Mañana será otro día, señor", "windows-1252"),
        ("Příliš žluťoučký kůň", "latin-1"),
    ],
)
def test_lines_decoded_with_the_wrong_encoding_are_mended(text: str, encoding: str) -> None:
    broken = text.encode().decode(encoding)
    assert mend(f"plain\n{broken}\nwhole: Käse") == f"plain\n{text}\nwhole: Käse"


@pytest.mark.parametrize("text", ["Ã", "São Paulo", "naïve café", "价格50€", "ÀÉÎ"])
def test_text_that_could_be_meant_stays(text: str) -> None:
    assert mend(text) in (text, unicodedata.normalize("NFC", text))
