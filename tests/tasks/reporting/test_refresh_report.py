import json
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import CorruptError
from storage.layout import Layout
from storage.local_objects import LocalObjects
from tasks.drop_reasons import STAGES
from tasks.reporting.refresh_facts import BINS, Group
from tasks.reporting.refresh_funnel import (
    date_columns,
    funnel_of,
    funnels_by,
    length_columns,
    reasons_of,
)
from tasks.reporting.refresh_report import write_refresh_report
from tests.support.example_refresh import Refreshed, full_example, mint_example, row

_LAYOUT = Layout("demo")
_VOID = {"meta", "br"}


class Page(HTMLParser):
    """What a browser would act on, and the rows of tables by their first cell."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.rows: list[list[str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in _VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data

    @property
    def text(self) -> str:
        return "".join(data for tag, data in self.texts if tag != "style")


@pytest.fixture
def store(tmp_path: Path) -> LocalObjects:
    return LocalObjects(tmp_path / "store")


def _page(store: LocalObjects, made: Refreshed, folder: Path) -> str:
    (folder / "made").mkdir(exist_ok=True)
    manifest = mint_example(store, _LAYOUT, made, folder / "made")
    key = write_refresh_report(store, _LAYOUT, manifest.id, folder)
    assert key == _LAYOUT.refresh_report(manifest.id)
    return store.get(key).decode()


@pytest.fixture
def html(store: LocalObjects, tmp_path: Path) -> str:
    return _page(store, full_example(), tmp_path)


def test_every_document_is_in_one_place_of_the_funnel(html: str) -> None:
    page = Page(html)
    rows = {cells[0]: cells[1:] for cells in page.rows}
    #        read, rules, exact, items, near, cap, held out, train, kept, tokens
    assert rows["web-en"][:9] == ["80", "21", "9", "4", "3", "3", "5", "35", "50.0%"]
    assert rows["code"] == ["40", "38", "0", "0", "0", "0", "0", "2", "5.0%", "361"]
    assert "42 of 120" in page.text
    for notes in ("120 documents, 9 rejected (7.0%)", "61 left, 59 dropped (49.2%)", "42 left, 3"):
        assert notes in page.text


def test_reasons_stand_by_their_stage_with_their_shares_and_domains(html: str) -> None:
    rows = [cells for cells in Page(html).rows if cells[0] in STAGES]
    assert rows == [
        ["rules", "too_short", "38", "31.67%", "code 38"],
        ["rules", "gopher_quality:stop_words", "14", "11.67%", "web-en 14"],
        ["rules", "language:not_allowed", "7", "5.83%", "web-en 7"],
        ["exact duplicates", "duplicate", "9", "7.50%", "web-en 9"],
        ["task items", "contaminated", "4", "3.33%", "web-en 4"],
        ["near-duplicates", "near_duplicate_in_batch", "3", "2.50%", "web-en 3"],
        ["holdout cap", "holdout_cap", "3", "2.50%", "web-en 3"],
    ]


def test_text_of_documents_is_text_whatever_it_is(html: str) -> None:
    page = Page(html)
    assert {tag for tag, _ in page.tags} & {
        "script",
        "img",
        "b",
        "i",
        "q",
        "link",
        "iframe",
    } == set()
    assert page.open == []
    # Nothing but line ends steers a terminal, and nothing turns the direction of what follows.
    assert (
        re.findall(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]", html)
        == []
    )
    excerpts = [data for tag, data in page.texts if tag == "pre"]
    spelt = "</pre><script>alert(1)</script> \\u202eevil\\u202c \\x07bell\\x1b[31m\nsecond line"
    assert spelt in excerpts
    assert {one.get("dir") for tag, one in page.tags if tag == "pre"} == {"auto"}
    assert "code/<b>82</b>\\u202e" in page.text


def test_nothing_is_loaded_from_anywhere(html: str) -> None:
    found = [attributes for _, attributes in Page(html).tags]
    policy = [one for one in found if "http-equiv" in one]
    assert policy[0]["content"] == "default-src 'none'; style-src 'unsafe-inline'"
    assert re.findall(r"https?://|url\(|@import", html) == []
    for attributes in found:
        assert not {"src", "srcset", "onclick", "onload"} & set(attributes)
        assert attributes.get("href", "#").startswith("#")


def test_a_reason_without_kept_texts_names_its_documents(html: str) -> None:
    text = Page(html).text
    assert "duplicate, 9 documents, the first 5" in text
    assert "/data/web/a.jsonl:62" in text
    assert "/data/web/a.jsonl:67" not in text


def test_rejects_and_leaks_are_told_with_their_places(html: str) -> None:
    page = Page(html)
    assert "malformed_json, 8, the first 5" in page.text
    assert "/data/web/a.jsonl:4" in page.text
    assert "/data/web/a.jsonl:5 " not in page.text
    rows = {cells[0]: cells[1:] for cells in page.rows}
    assert rows["quiz"][:2] == ["4", "4"]
    assert rows["quiz"][2].startswith("web/d70, <q>70, 75%")
    assert rows["riddles"] == ["0", "0", "none"]


def test_a_domain_of_which_nothing_is_left_is_told(html: str) -> None:
    text = Page(html).text
    assert "domain code: 38 of 40 documents were dropped, most for too_short (38)" in text
    assert "domain code: no document is held out" in text
    assert "domain web-en:" not in text


def test_the_same_snapshot_gives_the_same_page_which_replaces_what_is_there(
    store: LocalObjects, tmp_path: Path, html: str
) -> None:
    (key,) = (info.key for info in store.list(f"{_LAYOUT.root}/reports"))
    store.put(key, b"an older page")
    assert _page(store, full_example(), tmp_path) == html
    assert [path.name for path in tmp_path.glob("report-*")] == []


def test_a_snapshot_without_rules_tasks_and_examples_has_a_page_too(
    store: LocalObjects, tmp_path: Path
) -> None:
    made = Refreshed(rows=[row(n) for n in range(3)], consumed={"s3://b/a.jsonl": '"abc"'})
    text = Page(_page(store, made, tmp_path)).text
    assert "None was dropped." in text
    assert "Everything could be read." in text
    assert "1 file: 3 documents" in text
    assert "was not looked for" in text
    assert "none were looked for" in text


def test_caps_on_shares_are_a_stage_where_they_dropped_something(
    store: LocalObjects, tmp_path: Path, html: str
) -> None:
    rows = [row(n, "source_share" if n > 7 else "") for n in range(10)]
    capped = Page(_page(store, Refreshed(rows=rows), tmp_path))
    assert "Caps on shares" in capped.rows[0]
    assert ["caps on shares", "source_share", "2", "20.00%", "web-en 2"] in capped.rows
    assert "8 left, 2 dropped (20.0%)" in capped.text
    assert "aps on shares" not in Page(html).text


def test_a_takedown_is_told_where_there_was_one_and_blames_no_rule(
    store: LocalObjects, tmp_path: Path, html: str
) -> None:
    rows = [row(n, "forgotten" if n else "") for n in range(30)]
    taken_down = Page(_page(store, Refreshed(rows=rows), tmp_path))
    assert ["takedown", "forgotten", "29", "96.67%", "web-en 29"] in taken_down.rows
    assert "after takedown" in taken_down.text
    assert "is this the rule" not in taken_down.text
    assert "takedown" not in Page(html).text


def test_files_that_a_takedown_rewrote_are_found_under_their_new_names(
    tmp_path: Path, html: str
) -> None:
    names = ("documents.parquet", "annotations.parquet", "rejects.jsonl.zst", "examples.jsonl")
    other = LocalObjects(tmp_path / "other")
    rewritten = _page(other, replace(full_example(), revised=names), tmp_path)
    assert rewritten == html


def test_annotations_of_other_documents_are_refused(store: LocalObjects, tmp_path: Path) -> None:
    made = full_example()
    assert made.annotations
    with pytest.raises(CorruptError, match="not of the same documents"):
        _page(store, replace(made, annotations=made.annotations[::-1]), tmp_path)


_GROUPS = st.lists(
    st.builds(
        Group,
        domain=st.sampled_from(["a", "b"]),
        source=st.sampled_from(["x", "y"]),
        licence=st.just(""),
        split=st.sampled_from(["train", "holdout"]),
        reason=st.just(""),
        documents=st.integers(1, 10**9),
        tokens=st.integers(0, 10**12),
    )
    | st.builds(
        Group,
        domain=st.sampled_from(["a", "b"]),
        source=st.sampled_from(["x", "y"]),
        licence=st.just(""),
        split=st.just("dropped"),
        reason=st.sampled_from(["duplicate", "too_short", "contaminated", "anything:new"]),
        documents=st.integers(1, 10**9),
        tokens=st.just(0),
    )
)


@given(_GROUPS)
def test_no_document_is_lost_or_counted_twice(groups: list[Group]) -> None:
    whole = funnel_of("all", groups)
    assert whole.read == sum(group.documents for group in groups)
    assert whole.read == whole.kept + sum(whole.dropped.values())
    for parts in (funnels_by(groups, lambda g: g.domain), funnels_by(groups, lambda g: g.source)):
        assert sum(part.read for part in parts) == whole.read
        assert sum(part.train_tokens for part in parts) == whole.train_tokens
    assert sum(row.documents for row in reasons_of(groups)) == whole.read - whole.kept


@given(st.lists(st.integers(1, 2**40), min_size=1), st.lists(st.integers(1, 2**40)))
def test_lengths_are_shares_of_their_side_and_bins_hold_what_they_say(
    kept: list[int], dropped: list[int]
) -> None:
    bins = {}
    for side, lengths in ((True, kept), (False, dropped)):
        bins[side] = np.zeros(BINS, np.int64)
        for length in lengths:
            bins[side][length.bit_length() - 1] += 1
    labels, series = length_columns(bins)
    assert [one.name for one in series] == (["kept", "dropped"] if dropped else ["kept"])
    for one in series:
        assert len(one.values) == len(labels)
        assert sum(one.values) == pytest.approx(1.0)
    for edge in (0, -1):
        assert sum(one.values[edge] for one in series) > 0


@pytest.mark.parametrize(
    ("dates", "unit", "first", "last"),
    [
        ({"2023-11": 3, "2024-02": 1, "": 9}, "month", "2023-11", "2024-02"),
        ({"2023-11": 3, "2024": 1}, "year", "2023", "2024"),
        ({"1790-11": 3, "2024-01": 1}, "decade", "1790", "2020"),
        ({"0001-11": 3, "9999-01": 1}, "century", "0000", "9900"),
        ({"": 4}, "", "", ""),
    ],
)
def test_dates_are_told_in_the_finest_unit_that_all_have_and_that_fits(
    dates: dict[str, int], unit: str, first: str, last: str
) -> None:
    found, labels, series = date_columns(Counter(dates))
    assert found == unit
    assert labels[:1] + labels[-1:] == ([first, last] if unit else [])
    assert sum(series.values) == sum(count for date, count in dates.items() if date)
    assert len(series.values) == len(labels) <= 100


def test_the_lengths_in_the_chart_are_those_of_the_documents(
    store: LocalObjects, tmp_path: Path
) -> None:
    rows = [row(n, tokens=tokens) for n, tokens in enumerate([1, 2, 3, 4, 7, 8])]
    html = _page(store, Refreshed(rows=rows), tmp_path)
    chart = html.partition("share of the kept")[2].partition("</svg>")[0]
    values: list[Any] = [json.loads(found) for found in re.findall(r'data-value="([^"]+)"', chart)]
    assert values == [1 / 6, 2 / 6, 2 / 6, 1 / 6]
