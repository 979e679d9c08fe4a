import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from storage.manifest import FileDigest, readable_json
from storage.snapshots import DomainSlice, SnapshotManifest
from tasks.judge.decide import CheckConfig, DocumentScore, Health, SliceScores, decide
from tasks.judge.verdict import EarlierScores, VerdictReport
from tasks.plan import UpdatePlan
from tasks.reporting.charts import nice_ticks
from tasks.reporting.report import ReportInput, render
from tasks.scoring.forgetting import ForgettingMatrix, MatrixRow
from training.config import Mixture, ModelConfig, Recipe, Schedule, Stream, TrainPlan
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


def scores(
    seed: int, shift: float, base: tuple[DocumentScore, ...] = ()
) -> tuple[DocumentScore, ...]:
    rng = np.random.default_rng(seed)
    if base:
        return tuple(
            replace(row, nats=row.nats + row.targets * rng.normal(shift, 0.04)) for row in base
        )
    return tuple(
        DocumentScore(f"d{n}", f"site{n % 45}", 800 * rng.normal(3.1 + shift, 0.2), 800, 3300)
        for n in range(120)
    )


def slice_of(domain: str, role: Any, shift: float, seed: int) -> SliceScores:
    champion = scores(seed, 0.1 * seed)
    return SliceScores(
        name=f"{domain}@a1b2c3d4e5f6",
        domain=domain,
        snapshot="a1b2c3d4e5f6",
        role=role,
        candidate=scores(seed + 1, shift, champion),
        champion=champion,
        earlier=(EarlierScores(version="1-0aa4", scores=scores(seed + 2, -0.01, champion)),)
        if role == "old"
        else (),
    )


def verdict_of(**shifts: float) -> VerdictReport:
    slices = [slice_of("news-2026-11", "new", -0.14, 1), slice_of("code", "new", -0.09, 4)]
    slices += [
        slice_of(domain, "old", shift, 7 + 3 * index)
        for index, (domain, shift) in enumerate(shifts.items())
    ]
    return decide(
        slices,
        CheckConfig(),
        health=Health(finite=True, probes=4, empty=0, distinct_token_share=0.625),
        candidate="3-c0ffee12",
        champion="2-beefbeef",
        suite="5a17e0000001",
    )


def plan_of(domain: str) -> UpdatePlan:
    def stream(domain: str, snapshot: str, parts: int, *, is_replay: bool) -> Stream:
        return Stream(
            snapshot=snapshot,
            domain=domain,
            prefix=f"lineages/demo/snapshots/{snapshot}/{domain}/train",
            parts=parts,
            samples=1900,
            available=2400,
            is_replay=is_replay,
        )

    recipe = Recipe(seq_len=512, global_batch_samples=16)
    schedule = Schedule(
        kind="cosine",
        eta_max=1e-3,
        eta_min=1e-4,
        eta_const=5e-4,
        warmup_tokens=80_000,
        cooldown_tokens=0,
        decay_tokens=0,
        total_tokens=1_638_400,
    )
    train = TrainPlan(
        lineage="demo",
        update="c0ffee1234567890",
        checkpoint_prefix="lineages/demo/updates/c0ffee1234567890/checkpoints",
        initial="lineages/demo/updates/beefbeef00000000/checkpoints/step-400",
        model=ModelConfig(
            vocab_size=4096,
            hidden_size=64,
            num_layers=2,
            num_heads=4,
            num_kv_heads=2,
            intermediate_size=128,
        ),
        start_id=0,
        end_id=0,
        mixture=Mixture(
            streams=(
                stream(domain, "f00df00df00d", 2048, is_replay=False),
                stream("code", "f00df00df00d", 1024, is_replay=False),
                stream("web-en", "a1b2c3d4e5f6", 683, is_replay=True),
                stream("books", "a1b2c3d4e5f6", 341, is_replay=True),
            ),
            seed=0,
        ),
        schedule=schedule,
        optimizer=recipe.optimizer,
        seq_len=512,
        global_batch_samples=16,
        micro_batch_size=8,
        num_steps=200,
        precision="bf16",
        seed=0,
        checkpoint_every_steps=100,
        trunk_step=200,
    )
    return UpdatePlan(
        id="c0ffee1234567890",
        version="3-c0ffee12",
        lineage="demo",
        champion="2-beefbeef",
        trunk="lineages/demo/updates/beefbeef00000000/checkpoints/step-400",
        snapshots=("f00df00df00d",),
        new_tokens=1_221_013,
        replay="0b0b0b0b0b0b",
        replay_share_requested=0.25,
        replay_share=0.25,
        suite="5a17e0000001",
        recipe=recipe,
        train=train,
    )


def snapshot_of(*domains: str) -> SnapshotManifest:
    return SnapshotManifest(
        id="f00df00df00d",
        lineage="demo",
        identity="f00df00df00d" + "0" * 52,
        content="0" * 64,
        role="new",
        minted_at="2026-11-20T02:00:00Z",
        tokenizer="lineages/demo/tokenizers/abc",
        vocab_size=4096,
        start_id=0,
        end_id=0,
        seq_len=512,
        token_dtype="uint16",
        domains=tuple(
            DomainSlice(
                domain=domain,
                train_samples=1900,
                train_tokens=972_133,
                train_documents=1204,
                holdout_documents=120,
                holdout_clusters=45,
                holdout_tokens=96_240,
                source_names=("feeds",),
                licences=("CC-BY-4.0",),
            )
            for domain in domains
        ),
        documents_read=1400,
        documents_dropped={"duplicate": 76},
        lines_rejected={},
        files=(FileDigest("unigram.bin", 32768, "0" * 64),),
    )


def metrics_of(domain: str) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    steps: list[dict[str, Any]] = []
    for step in range(1, 201):
        loss = 2.9 + 0.6 * math.exp(-step / 40) + 0.03 * rng.normal()
        rate = 1e-3 * min(1.0, step / 10) * (0.55 + 0.45 * math.cos(math.pi * step / 200))
        steps.append(
            {
                "step": step,
                "tokens_seen": step * 8192,
                "train/loss": loss,
                "train/lr": rate,
                f"train/loss/{domain}": loss + 0.1 if step % 7 else None,
                "train/loss/web-en": loss - 0.3 + 0.02 * rng.normal(),
                "train/loss/code": loss - 0.9 + 0.02 * rng.normal(),
            }
        )
    return steps


def example(verdict: VerdictReport, *, domain: str = "news-2026-11") -> ReportInput:
    slices = (
        "web-en@a1b2c3d4e5f6",
        "books@a1b2c3d4e5f6",
        "code@f00df00df00d",
        f"{domain}@f00df00df00d",
    )
    return ReportInput(
        plan=plan_of(domain),
        verdict=verdict,
        matrix=ForgettingMatrix(
            slices=slices,
            rows=(
                MatrixRow(
                    version="1-0aa4",
                    decision="published",
                    is_champion=False,
                    nats_per_token=(3.412, 3.804, None, None),
                ),
                MatrixRow(
                    version="2-beefbeef",
                    decision="published",
                    is_champion=True,
                    nats_per_token=(3.398, 3.821, 2.94, 3.51),
                ),
                MatrixRow(
                    version="3-c0ffee12",
                    decision="awaiting",
                    is_champion=False,
                    nats_per_token=(3.441, 3.822, 2.851, 3.377),
                ),
            ),
        ),
        snapshots=(snapshot_of(domain, "code"),),
        metrics=metrics_of(domain),
        code_version="0.1.0",
        written_at="2026-11-20T03:12:44Z",
    )


VERDICTS = {
    "PASS": verdict_of(web=0.01, books=-0.02),
    "AMBIGUOUS": verdict_of(web=0.048, books=-0.02),
    "FAIL": verdict_of(web=0.12, books=-0.02),
}


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
        "What changed",
        "Before and after",
        "Forgetting",
        "Mixture",
        "Training",
        "What to do",
    ]
    assert text.index('class="banner AMBIGUOUS"') < text.index("What changed")


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
    assert len(charts) == 5
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


def test_realised_shares_are_those_of_the_order_itself() -> None:
    text = Page(render(example(VERDICTS["PASS"]))).text
    assert re.search(r"web-en@a1b2c3d4e5f6\s*replay\s*16\.67%\s*16\.69%\s*534", text)


def test_what_is_unknown_is_said_and_not_drawn() -> None:
    rows = tuple(
        replace(row, difference=None, lower_bound=None, upper_bound=None, p_met=None)
        for row in VERDICTS["FAIL"].rows
    )
    page = example(replace(VERDICTS["FAIL"], rows=rows))
    text = render(replace(page, metrics=(), matrix=ForgettingMatrix(slices=(), rows=())))
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
    assert '<h2 id="time">' not in render(page)
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
