import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from storage.manifest import readable_json, unseal
from tasks.judge.numbers import Numbers
from tasks.judge.verdict import Health, VerdictReport
from tasks.reporting.report import render
from tasks.reporting.svg import nice_ticks
from tasks.scoring.forgetting import ForgettingMatrix
from tests.support.example_report import VERDICTS, example
from training.goodput import Goodput

HOSTILE = "<script>alert(1)</script>\"'><img src=https://example.com/x>"


class Page(HTMLParser):
    """Collects what a browser would act on, and the figures."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.figures: list[tuple[str, Any, str]] = []
        self.text = ""
        self._open: tuple[str, Any] | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.tags.append((tag, attributes))
        if "data-key" in attributes:
            self._open = (attributes["data-key"], json.loads(attributes["data-value"]))

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._open is not None:
            self.figures.append((*self._open, data))
            self._open = None


def look_up(document: Any, key: str) -> Any:
    for part in key.split("."):
        document = document[int(part)] if isinstance(document, list) else document[part]
    return document


def shown_digits(text: str) -> str:
    return text.replace("\N{MINUS SIGN}", "-").replace(",", "")


@pytest.mark.parametrize("outcome", VERDICTS)
def test_every_figure_on_the_page_is_the_verdicts_own(outcome: str) -> None:
    verdict = VERDICTS[outcome]
    written = json.loads(readable_json(verdict))
    figures = Page(render(example(verdict))).figures
    assert verdict.verdict == outcome
    keys = {key for key, _, _ in figures}
    for index in range(len(verdict.rows)):
        for field in ("difference", "upper_bound", "smallest_detectable_effect", "targets"):
            assert f"rows.{index}.{field}" in keys
    for key, value, text in figures:
        assert value == look_up(written, key)
        if isinstance(value, float) and not text.endswith("%"):
            # What the eye sees is the same number, rounded.
            decimals = len(shown_digits(text).partition(".")[2])
            assert abs(float(shown_digits(text)) - value) <= 0.5 * 10**-decimals + 1e-12


def test_the_charts_carry_the_verdicts_differences() -> None:
    verdict = VERDICTS["FAIL"]
    page = Page(render(example(verdict)))
    dots = [json.loads(found["data-value"]) for tag, found in page.tags if tag == "circle"]
    assert dots == [row.difference for row in verdict.rows if row.margin is not None]


def test_the_sections_come_in_the_reviewers_order() -> None:
    text = render(example(VERDICTS["AMBIGUOUS"]))
    headings = re.findall(r'<h2 id="[a-z-]+">([^<]+)</h2>', text)
    assert headings == [
        "What to do",
        "Before and after",
        "Forgetting",
        "Health",
        "What changed",
        "Mixture",
        "Training",
        "Time",
    ]
    assert text.index('class="banner AMBIGUOUS"') < text.index('<dl class="card">')
    assert text.index('<dl class="card">') < text.index("What to do</h2>")


def test_the_card_says_it_all_before_the_first_chart() -> None:
    text = render(example(VERDICTS["FAIL"]))
    card = Page(text[: text.index("What to do</h2>")]).text
    titles = re.findall(r"<dt>([^<]+)</dt>", text)
    assert titles == [
        "Better",
        "Worse",
        "Tasks",
        "How sure",
        "Data in",
        "Recipe",
        "Cost",
        "Unguarded",
        "Other signs",
    ]
    assert re.search(
        r"new data, [\d.]+ to [\d.]+ nats/token \(.0\.1\d+\), 95% sure of at least 0\.1\d+ better; "
        r"more than 0\.020 better is required",
        card,
    )
    assert re.search(r"old web, .*95% sure of at most 0\.1\d+ worse; up to 0\.050 worse", card)
    assert "1.2M new tokens of news-2026-11, code (f00df00df00d), 25.0% replay" in card
    assert "1.6M tokens trained in 16:25 min, 94% of it in steps that count" in card
    assert "poems: 3 clusters are too few" in card


def test_answers_that_flipped_are_counted_bounded_and_shown() -> None:
    text = render(example(VERDICTS["FAIL"]))
    shown = " ".join(Page(text).text.split())
    assert "arc_easy, 60.0% to 52.0% right, 44 of 400 right before and wrong now" in shown
    assert "a fall beyond what is tolerated" in shown
    assert "right before and is wrong now, 2 of 44" in shown
    assert "the sun and all of its planets" in shown
    assert "at chance level when it was frozen" in shown
    assert '<h2 id="tasks">' not in render(example(VERDICTS["AMBIGUOUS"]))


def test_what_was_tried_to_repair_it_is_there_only_when_something_was() -> None:
    text = Page(render(example(VERDICTS["FAIL"]))).text
    assert "interpolation, weight 0.4" in text
    assert "more replay" in text
    assert "collapsed: 9.12 nats per token on books" in text
    assert '<h2 id="remedies">' not in render(example(VERDICTS["PASS"]))
    repair = replace(VERDICTS["PASS"], remedy_of="2-deadbeef")
    assert "This candidate repairs 2-deadbeef" in Page(render(example(repair))).text


def test_a_verdict_from_before_the_numbers_is_shown_without_them() -> None:
    old = json.loads(readable_json(VERDICTS["FAIL"]))
    for name in ("numbers", "remedies", "remedy_of", "task_rows", "sha256"):
        del old[name]
    for name in ("candidate", "champion", "canary"):
        del old["health"][name]
    del old["config"]["max_perplexity_ratio"]
    loaded = unseal(readable_json(old), "verdict.json", VerdictReport)
    page = Page(render(replace(example(loaded), goodput=None)))
    assert "distinct tokens 62%" in " ".join(page.text.split())
    assert "Stability gap" not in page.text
    assert {attributes.get("aria-label") for tag, attributes in page.tags if tag == "svg"} == {
        "Gain on the new data",
        "Change on old domains",
        "Training loss",
        "Loss by domain",
        "Learning rate",
    }


def test_a_candidate_that_collapsed_says_so_and_what_was_looked_at() -> None:
    verdict = VERDICTS["FAIL"]
    canary = verdict.health.canary
    assert canary is not None
    worst = replace(canary.slices[0], candidate_nats_per_token=9.9, perplexity_ratio=657.0)
    broken = Health(finite=True, canary=replace(canary, slices=(worst, *canary.slices[1:])))
    text = Page(render(example(replace(verdict, health=broken, numbers=Numbers())))).text
    assert "the candidate has collapsed on web-en@a1b2c3d4e5f6: 9.90 nats per token" in text
    assert "The checks stopped early" in text
    assert "How it continues" not in text


def outside_references(text: str) -> list[str]:
    """Everything a browser would load or follow."""
    loads = {"src", "href", "srcset", "action", "data", "poster", "xlink:href", "formaction"}
    found = [
        f"{tag} {name}={value}"
        for tag, attributes in Page(text).tags
        for name, value in attributes.items()
        if name in loads or "url(" in value or "http" in value
    ]
    styles = re.findall(r"<style>(.*?)</style>", text, flags=re.DOTALL)
    return found + [style for style in styles if "url(" in style or "@import" in style]


def test_nothing_is_loaded_from_anywhere() -> None:
    text = render(example(VERDICTS["PASS"]))
    assert outside_references(text) == []
    assert not {"script", "link", "iframe", "img", "object", "base"} & {
        tag for tag, _ in Page(text).tags
    }


def test_a_hostile_name_is_inert_everywhere() -> None:
    harmless = render(example(VERDICTS["FAIL"]))
    verdict = replace(
        VERDICTS["FAIL"],
        reason=HOSTILE,
        reasons=(HOSTILE, HOSTILE),
        champion=HOSTILE,
        candidate=HOSTILE,
        rows=tuple(replace(row, domain=HOSTILE, against=HOSTILE) for row in VERDICTS["FAIL"].rows),
    )
    text = render(replace(example(verdict, domain=HOSTILE), code_version=HOSTILE))
    assert {tag for tag, _ in Page(text).tags} == {tag for tag, _ in Page(harmless).tags}
    # Its own quotes must not have opened an attribute either.
    names = {name for _, attributes in Page(text).tags for name in attributes}
    assert names == {name for _, attributes in Page(harmless).tags for name in attributes}
    assert HOSTILE in Page(text).text


def test_every_table_names_its_columns_or_rows() -> None:
    page = Page(render(example(VERDICTS["PASS"])))
    headers = [attributes for tag, attributes in page.tags if tag == "th"]
    assert all(attributes["scope"] in ("col", "row") for attributes in headers)
    charts = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert len(charts) == 7
    assert all(found["role"] == "img" and found["aria-label"] for found in charts)


@pytest.mark.parametrize(
    ("outcome", "commands"),
    [
        ("PASS", ["rollback"]),
        ("FAIL", ["promote 3-c0ffee12"]),
        ("AMBIGUOUS", ["promote 3-c0ffee12", "reject 3-c0ffee12", "rollback"]),
    ],
)
def test_the_page_says_how_to_act(outcome: str, commands: list[str]) -> None:
    text = Page(render(example(VERDICTS[outcome]))).text
    found = re.findall(r"perennial ((?:promote|reject|rollback)[^\n]*?) --reason", text)
    assert found == commands


def test_what_passed_but_waits_for_a_person_is_not_called_champion() -> None:
    waits = replace(example(VERDICTS["PASS"]), always_ask=True)
    text = " ".join(Page(render(waits)).text.split())
    assert "becomes the champion" not in text
    assert "A person decides all the same" in text
    assert "perennial promote 3-c0ffee12 --reason" in text


def test_what_was_repaired_is_not_said_to_be_tried_again() -> None:
    verdict = VERDICTS["FAIL"]
    passed = replace(verdict.remedies[-1], verdict="PASS", version="4-0e9a1e00")
    text = Page(render(example(replace(verdict, remedies=(passed,))))).text
    assert "4-0e9a1e00, which repairs it, has passed" in " ".join(text.split())
    assert "stays pending" not in text


def test_realised_shares_are_those_of_the_order_itself() -> None:
    text = Page(render(example(VERDICTS["PASS"]))).text
    assert re.search(r"web-en@a1b2c3d4e5f6\s*replay\s*16\.67%\s*16\.69%\s*534", text)


def test_what_is_unknown_is_said_and_not_drawn() -> None:
    rows = tuple(
        replace(row, difference=None, lower_bound=None, upper_bound=None, p_met=None)
        for row in VERDICTS["FAIL"].rows
    )
    page = example(replace(VERDICTS["FAIL"], rows=rows))
    without = replace(page.verdict, numbers=None)
    empty = ForgettingMatrix(slices=(), rows=())
    text = render(replace(page, verdict=without, metrics=(), matrix=empty))
    assert "n/a" in text
    assert '<h2 id="training">' not in text
    assert '<h2 id="matrix-title">' not in text
    assert "<circle" not in text


def test_the_same_input_gives_the_same_bytes() -> None:
    page = example(VERDICTS["PASS"])
    assert render(page) == render(page)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.0, 1.0, [0.0, 0.25, 0.5, 0.75, 1.0]),
        (-0.118, 0.0, [-0.15, -0.1, -0.05, 0.0]),
        (3.0, 3.0, [1.0, 2.0, 3.0, 4.0, 5.0]),
    ],
)
def test_ticks_are_round_and_enclose_the_values(
    low: float, high: float, ticks: list[float]
) -> None:
    assert nice_ticks(low, high, 4) == ticks


def test_what_to_know_of_the_data_is_on_the_page_and_only_then() -> None:
    page = example(VERDICTS["PASS"])
    warning = f"9 of 559 documents rejected (9 bad_utf8; first: {HOSTILE}:2)"
    text = Page(render(replace(page, warnings=(warning,)))).text
    assert warning in text
    assert "To know of the data" not in Page(render(page)).text


def test_where_the_time_of_the_training_went_is_on_the_page_when_that_was_kept() -> None:
    page = example(VERDICTS["PASS"])
    assert '<h2 id="time">' not in render(replace(page, goodput=None))
    account = Goodput(
        productive_seconds=930.5,
        start_seconds=20.0,
        data_seconds=0.0,
        save_seconds=9.5,
        restore_seconds=0.0,
        lost_seconds=40.0,
    )
    shown = Page(render(replace(page, goodput=account))).text
    assert "Where the 1,000 seconds of the training went: 93.0%" in " ".join(shown.split())
    for name, seconds in account.by_bucket().items():
        assert f"{name}{seconds:,.1f} s" in "".join(shown.split("\n"))


def test_the_learning_rate_is_drawn_as_planned_beside_what_was_taken() -> None:
    text = render(example(VERDICTS["PASS"]))
    chart = text[text.index("<figcaption>Learning rate") :]
    assert chart[: chart.index("</figure>")].count("<polyline") == 2
