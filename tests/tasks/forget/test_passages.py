import gzip
import html
import io
import json

import markupsafe
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.forget.pages import blanked_page
from tasks.forget.passages import Passages, token_windows_of, windows_of
from tasks.forget.proof import found_in_bytes
from tasks.reporting.templates import environment
from tests.tasks.forget.scene import words

TEXT = f'{words(1)} "quoted" & <marked>\n\tünïcödé 文字 {words(2)}'
PASSAGES = Passages(windows_of(TEXT))


# The first search compiles.
@settings(deadline=None)
@given(start=st.integers(0, len(TEXT) - 110), before=st.binary(max_size=70))
def test_any_passage_of_a_text_is_found_wherever_it_begins(start: int, before: bytes) -> None:
    # 110 characters have 95 bytes in a row of one spelling.
    assert PASSAGES.found_in(before + TEXT[start : start + 110].encode() + b"|")


def test_any_passage_of_a_long_text_is_found() -> None:
    text = words(5, num_words=15_000)
    passages = Passages(windows_of(text))
    assert len(text) > 90_000
    for start in range(0, len(text) - 95, 1_013):
        assert passages.found_in(text[start : start + 95].encode())


@given(st.integers(3, 10**6))
def test_another_text_has_none(seed: int) -> None:
    assert not PASSAGES.found_in(words(seed).encode())


def test_every_window_is_found_in_every_spelling() -> None:
    spelled = [
        TEXT.encode(),
        json.dumps(TEXT).encode(),
        json.dumps({"detail": TEXT}, ensure_ascii=False).encode(),
        html.escape(TEXT).encode(),
        str(markupsafe.escape(TEXT)).encode(),
    ]
    found = [PASSAGES.found_in(body) for body in spelled]
    assert all(len(windows) > 20 for windows in found)
    assert len(set.union(*found)) > max(map(len, found))


def test_a_text_full_of_quotes_is_found_in_a_page() -> None:
    code = " ".join(f"put('{word}', \"{word}\")" for word in words(4).split())
    page = environment().from_string("<td>{{ text }}</td>").render(text=code[90:230]).encode()
    assert Passages(windows_of(code)).found_in(page)
    assert b"put" not in blanked_page(page, (), Passages(windows_of(code)))


def test_a_page_loses_an_id_whatever_characters_it_has() -> None:
    name = 'O\'Neil & "sons"'
    page = environment().from_string("<b>{{ name }}</b><i>kept</i>").render(name=name).encode()
    assert blanked_page(page, {name}, PASSAGES) == b"<b>forgotten</b><i>kept</i>"


@pytest.mark.parametrize("width", ["<u2", "<u4"])
@given(start=st.integers(0, 175))
def test_any_24_tokens_in_a_row_are_found(width: str, start: int) -> None:
    tokens = np.arange(200) * 7919 % 50_000
    passages = Passages(token_windows_of(tokens))
    body = np.concatenate([[1, 2, 3], tokens[start : start + 24], [4]]).astype(width)
    assert passages.found_in(body.tobytes())
    assert not passages.found_in(body[::-1].copy().tobytes())


def test_what_is_packed_is_looked_into() -> None:
    rows = io.BytesIO()
    table = pa.table({"text": ["other", TEXT], "n": [1, 2]})
    # Its statistics would have the text as it is.
    pq.write_table(table, rows, compression="zstd", write_statistics=False)
    for packed in (
        zstandard.compress(TEXT.encode()),
        zstandard.compress(b"first frame") + zstandard.compress(TEXT.encode()),
        gzip.compress(TEXT.encode()),
        rows.getvalue(),
    ):
        assert not PASSAGES.found_in(packed)
        assert len(found_in_bytes(packed, PASSAGES)) > 20
        # What is cut off is searched as far as it goes.
        found_in_bytes(packed[:-5], PASSAGES)


def test_a_short_text_is_one_window_and_a_shorter_one_tells_nothing() -> None:
    (window,) = windows_of("the quick brown fox jumps over")
    assert Passages([window]).found_in(b"-- the quick brown fox jumps over --") == {window}
    assert windows_of("a few words") == set()
    assert windows_of(" " * 1000) == set()


def test_of_a_long_text_some_windows_stand_for_all() -> None:
    text = words(5, num_words=40_000)
    found = Passages(windows_of(text)).found_in(text.encode())
    assert 4_000 <= len(found) <= 4_096
