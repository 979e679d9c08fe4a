"""How often the judge errs, in small; docs/results/judge.md has it in full, on real scores."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np

from tasks.judge.decide import DocumentScore
from tests.benchmarks.judge_trials import (
    CONFIG,
    Clusters,
    at_the_loss_margin,
    centred,
    drawn_from,
    judged,
    reordered,
    row_of,
    slice_of,
    some_of,
    sure_gain,
)

FLIPS = 200
THREE_ERRORS = 3 * math.sqrt(CONFIG.alpha * (1 - CONFIG.alpha) / FLIPS)


def skewed_pool(seed: int, count: int = 100) -> Clusters:
    """Log-normal cluster sizes; effects by cluster with heavy tails (Student's t, 4 degrees)."""
    random = np.random.default_rng(seed)
    targets = np.maximum(20.0, random.lognormal(6, 1.2, count)).round()
    effects = 0.05 * random.standard_t(4, count)
    return centred(Clusters(3.0 * targets, effects * targets, targets))


def test_a_model_against_itself_is_exactly_zero_and_no_gain_in_any_order_of_documents() -> None:
    itself = skewed_pool(1).moved(0.0, scale=0.0)
    slices = slice_of(itself, "news", "new"), slice_of(itself, "web", "old")
    expected = judged(*slices)
    assert expected.verdict == "FAIL"
    assert "gain on the new data over 1-a is 0.000" in expected.reason
    for row in expected.rows:
        assert (row.difference, row.lower_bound, row.upper_bound) == (0.0, 0.0, 0.0)
    random = np.random.default_rng(2)
    for _ in range(5):
        assert judged(*(reordered(item, random) for item in slices)) == expected


def test_sign_flips_at_the_margin_are_misjudged_no_more_often_than_promised() -> None:
    pool, random = skewed_pool(3, count=400), np.random.default_rng(4)
    seen: Counter[str] = Counter()
    for _ in range(FLIPS):
        clusters = some_of(pool, 30, random).flipped(random)
        report = at_the_loss_margin(clusters, CONFIG.max_loss_nats)
        lower = row_of(report, "loss").lower_bound
        assert lower is not None
        seen[report.verdict] += 1
        seen["broken"] += lower > CONFIG.max_loss_nats
    for wrong in ("PASS", "FAIL", "broken"):
        assert seen[wrong] / FLIPS <= CONFIG.alpha + THREE_ERRORS
    # A judge that never decides would keep its promise too, and be of no use.
    assert seen["PASS"] > 0
    assert seen["broken"] > 0


def test_losses_well_within_and_well_beyond_the_margin_are_told_apart() -> None:
    pool, random = skewed_pool(5), np.random.default_rng(6)
    kept = [at_the_loss_margin(drawn_from(pool, 100, random), 0.0) for _ in range(20)]
    broken = [
        at_the_loss_margin(drawn_from(pool, 100, random), 2 * CONFIG.max_loss_nats)
        for _ in range(20)
    ]
    assert sum(report.verdict == "PASS" for report in kept) >= 18
    assert sum(report.verdict == "FAIL" for report in broken) >= 18


def in_halves(scores: tuple[DocumentScore, ...] | None) -> tuple[DocumentScore, ...]:
    return tuple(
        replace(
            score,
            document=f"{score.document}{half}",
            nats=score.nats / 2,
            targets=score.targets // 2,
            text_bytes=score.text_bytes // 2,
        )
        for score in scores or ()
        for half in "ab"
    )


def test_many_documents_of_a_cluster_are_judged_as_their_sum() -> None:
    """What the trials rest on: they give every cluster one document."""
    pool = skewed_pool(7)
    whole = slice_of(Clusters(pool.other_nats, pool.differences, 2 * pool.targets), "web", "old")
    parts = replace(whole, candidate=in_halves(whole.candidate), champion=in_halves(whole.champion))
    one = row_of(judged(sure_gain(), whole), "loss")
    two = row_of(judged(sure_gain(), parts), "loss")
    assert two.documents == 2 * one.documents
    assert replace(two, documents=one.documents) == one
