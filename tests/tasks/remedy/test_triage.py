from dataclasses import replace

import pytest

from storage.head import VersionRecord
from tasks.judge.verdict import DomainRow, Health, TaskRow, VerdictReport
from tasks.remedy.config import RemedyConfig
from tasks.remedy.triage import attempts_for
from tests.support.lineages import LAYOUT, report_of

CONFIG = RemedyConfig()


def row(test: str, *, violated: bool, difference: float | None = 0.2) -> DomainRow:
    return DomainRow(
        domain="prose",
        role="new" if test == "gain" else "old",
        test=test,  # pyright: ignore[reportArgumentType]
        against="1-a",
        documents=9,
        clusters=9,
        targets=90,
        candidate_nats_per_token=3.0,
        champion_nats_per_token=2.8,
        candidate_bits_per_byte=1.0,
        champion_bits_per_byte=1.0,
        difference=difference,
        margin=0.05,
        violated=violated,
    )


def failed(*rows: DomainRow, **changes: object) -> VerdictReport:
    record = VersionRecord(
        version="2-b",
        update="b" * 16,
        verdict="FAIL",
        decision="refused",
        parent="1-a",
        trunk=f"{LAYOUT.checkpoints('b')}/step-1",
        snapshots=(),
        replay=None,
        on_head=2,
    )
    return report_of(record, rows=rows, **changes)


GAIN, LOSS = row("gain", violated=False), row("loss", violated=True)


def test_a_loss_calls_for_everything_that_is_configured() -> None:
    for lost in (LOSS, row("cumulative", violated=True)):
        assert attempts_for(failed(GAIN, lost), CONFIG)[0] == CONFIG.order
    off = attempts_for(failed(GAIN, LOSS), replace(CONFIG, order=()))
    assert off == ((), "remedy.order is empty: none is tried.")


def test_answers_that_were_lost_call_for_a_remedy_though_no_loss_rose() -> None:
    kept = row("loss", violated=False)
    forgotten = TaskRow(
        task="facts",
        against="1-a",
        items=400,
        clusters=400,
        candidate_accuracy=0.5,
        champion_accuracy=0.8,
        difference=-0.3,
        margin=0.05,
        violated=True,
    )
    assert attempts_for(failed(GAIN, kept), CONFIG)[0] == ()
    assert attempts_for(failed(GAIN, kept, task_rows=(forgotten,)), CONFIG)[0] == CONFIG.order


def test_what_has_collapsed_but_computes_numbers_may_be_sound_halfway_back() -> None:
    mute = Health(finite=True, probes=4, empty=4)
    assert attempts_for(failed(GAIN, health=mute), CONFIG)[0] == CONFIG.order


@pytest.mark.parametrize(
    ("report", "why"),
    [
        (replace(failed(GAIN, LOSS), verdict="PASS"), "No remedy is called for"),
        (replace(failed(GAIN, LOSS), champion=None), "no champion to be merged with"),
        (failed(GAIN, LOSS, health=Health(finite=False)), "is broken"),
        (failed(GAIN, LOSS, row("loss", violated=False, difference=None)), "is broken"),
        (failed(row("gain", violated=True), row("loss", violated=False)), "only gain less"),
    ],
    ids=["passed", "first version", "not finite", "no numbers", "no gain"],
)
def test_what_no_remedy_can_help_gets_none_and_is_told(report: VerdictReport, why: str) -> None:
    attempts, reason = attempts_for(report, CONFIG)
    assert attempts == ()
    assert why in reason


def test_what_lost_and_gained_nothing_is_trained_more_gently_and_not_merged() -> None:
    report = failed(row("gain", violated=True), LOSS)
    assert attempts_for(report, CONFIG)[0] == (("lower_peak",),)
    assert attempts_for(report, replace(CONFIG, order=(("interpolation",),)))[0] == ()


def in_doubt(*rows: DomainRow) -> VerdictReport:
    return replace(failed(*rows), verdict="AMBIGUOUS")


def test_a_likely_loss_beside_a_gain_is_repaired_before_a_person_is_asked() -> None:
    gain = replace(GAIN, passed=True)
    for test in ("loss", "cumulative"):
        likely = row(test, violated=False, difference=0.04)
        assert attempts_for(in_doubt(gain, likely), CONFIG)[0] == CONFIG.order


@pytest.mark.parametrize(
    ("report", "why"),
    [
        (in_doubt(GAIN, row("loss", violated=False, difference=0.04)), "would only gain less"),
        (in_doubt(row("loss", violated=False, difference=0.04)), "would only gain less"),
        (
            in_doubt(
                replace(GAIN, passed=True),
                row("loss", violated=False, difference=0.02),
                replace(row("loss", violated=False, difference=0.04), passed=True),
            ),
            "noise of few items",
        ),
    ],
    ids=["gain in doubt", "nothing new held out", "noise"],
)
def test_other_doubts_are_left_to_a_person(report: VerdictReport, why: str) -> None:
    attempts, reason = attempts_for(report, CONFIG)
    assert attempts == ()
    assert why in reason
