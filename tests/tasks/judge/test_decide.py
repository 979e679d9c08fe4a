import math
import random
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.judge.decide import (
    CheckConfig,
    DocumentScore,
    DomainRow,
    EarlierScores,
    Health,
    SliceScores,
    VerdictReport,
    decide,
    holm,
)
from tasks.judge.verdict import ALL_NEW, Role

CONFIG = CheckConfig()
HEALTHY = Health(finite=True, probes=4, empty=0, distinct_token_share=0.6)
Scores = tuple[DocumentScore, ...]


def scores(seed: int, *, clusters: int = 60, loss: float = 3.0) -> Scores:
    """Some documents a cluster, with log-normal lengths and losses that differ by cluster."""
    rng = np.random.default_rng(seed)
    found: list[DocumentScore] = []
    for cluster in range(clusters):
        level = loss + rng.normal(0, 0.3)
        for document in range(int(rng.integers(1, 4))):
            targets = int(max(20, rng.lognormal(6, 0.8)))
            nats = targets * level + math.sqrt(targets) * rng.normal(0, 1)
            found.append(
                DocumentScore(f"{cluster}-{document}", f"site{cluster}", nats, targets, 4 * targets)
            )
    return tuple(found)


def shifted(base: Scores, shift: float, seed: int) -> Scores:
    """Another model's scores: ``shift`` nats per token higher, with noise by cluster and token."""
    rng = np.random.default_rng(seed)
    effects = {score.cluster: rng.normal(shift, 0.02) for score in base}
    return tuple(
        replace(
            score,
            nats=score.nats
            + score.targets * effects[score.cluster]
            + math.sqrt(score.targets) * rng.normal(0, 0.15),
        )
        for score in base
    )


def part(domain: str, role: Role, shift: float, *, seed: int, snapshot: str = "s1") -> SliceScores:
    champion = scores(seed)
    return SliceScores(
        name=f"{domain}@{snapshot}",
        domain=domain,
        snapshot=snapshot,
        role=role,
        candidate=shifted(champion, shift, seed + 1),
        champion=champion,
    )


def judge(
    shifts: Mapping[str, float], *, gain: float = 0.08, config: CheckConfig = CONFIG
) -> VerdictReport:
    """Old domains shifted as told, and one new domain that improves by ``gain``."""
    slices = [part("news", "new", -gain, seed=100, snapshot="s9")]
    slices += [
        part(domain, "old", shift, seed=10 * index + 300)
        for index, (domain, shift) in enumerate(shifts.items())
    ]
    return decide(slices, config, health=HEALTHY, candidate="2-b", champion="1-a")


def row_of(report: VerdictReport, domain: str, test: str) -> DomainRow:
    (row,) = [row for row in report.rows if (row.domain, row.test) == (domain, test)]
    return row


def itself(role: Role, domain: str) -> SliceScores:
    own = scores(7)
    return SliceScores(
        name=f"{domain}@s1", domain=domain, snapshot="s1", role=role, candidate=own, champion=own
    )


def test_a_model_is_exactly_as_good_as_itself_and_refused_for_want_of_gain() -> None:
    slices = [itself("new", "news"), itself("old", "web"), itself("old", "code")]
    report = decide(slices, CONFIG, health=HEALTHY, candidate="2-b", champion="1-a")
    assert report.verdict == "FAIL"
    assert report.reason == (
        "The gain on the new data over 1-a is 0.000 nats per token, "
        "shown to be below the required 0.02."
    )
    for row in report.rows:
        assert (row.difference, row.lower_bound, row.upper_bound) == (0.0, 0.0, 0.0)
    assert row_of(report, "web", "loss").passed
    assert row_of(report, ALL_NEW, "gain").violated


def test_losses_of_half_the_margin_pass() -> None:
    report = judge({"web": 0.025, "code": 0.025, "books": -0.01})
    assert report.verdict == "PASS"
    assert report.reason.startswith("Held-out loss on the new data is 0.0")
    assert all(row.passed for row in report.rows if row.margin is not None)
    assert row_of(report, "web", "loss").difference == pytest.approx(0.025, abs=0.01)


@pytest.mark.parametrize("lost", ["web", "code", "books"])
def test_a_loss_of_twice_the_margin_on_any_domain_fails_and_is_named(lost: str) -> None:
    report = judge({"web": 0.0, "code": 0.0, "books": 0.0} | {lost: 0.1})
    assert report.verdict == "FAIL"
    assert report.reason.startswith(f"{lost}: held-out loss is 0.")
    assert "above that of 1-a, shown to be more than the allowed 0.05" in report.reason
    assert [row.domain for row in report.rows if row.violated] == [lost]


def test_a_loss_at_the_margin_is_for_a_person() -> None:
    report = judge({"web": 0.05, "code": 0.0})
    assert report.verdict == "AMBIGUOUS"
    assert "web: held-out loss may be up to 0.05" in report.reason
    assert "could be seen" in report.reason


def test_at_the_margin_a_wrong_verdict_is_as_rare_as_promised() -> None:
    """40 simulations at 5 %: more than 6 of either has a chance of 1 in 100."""
    verdicts: list[str] = []
    for seed in range(1000, 1400, 10):
        slices = [part("news", "new", -0.08, seed=seed), part("web", "old", 0.05, seed=seed + 5)]
        report = decide(slices, CONFIG, health=HEALTHY, candidate="2", champion="1")
        verdicts.append(report.verdict)
    assert verdicts.count("PASS") <= 6
    assert verdicts.count("FAIL") <= 6


def test_better_but_forgetful_is_refused() -> None:
    assert judge({"web": 0.1}, gain=1.0).verdict == "FAIL"


def test_faithful_but_useless_is_refused() -> None:
    report = judge({"web": 0.0}, gain=-0.01)
    assert report.verdict == "FAIL"
    assert "shown to be below the required 0.02" in report.reason


def test_a_gain_at_the_margin_is_for_a_person() -> None:
    report = judge({"web": 0.0}, gain=0.02)
    assert report.verdict == "AMBIGUOUS"
    assert "above 0.02 is required" in report.reason


def test_slices_of_one_old_domain_are_pooled_and_new_ones_shown_by_domain_too() -> None:
    slices = [
        part("web", "old", 0.0, seed=1, snapshot="s1"),
        part("web", "old", 0.0, seed=5, snapshot="s2"),
        part("news", "new", -0.1, seed=9, snapshot="s3"),
        part("code", "new", -0.1, seed=13, snapshot="s3"),
    ]
    report = decide(slices, CONFIG, health=HEALTHY, candidate="2-b", champion="1-a")
    assert [(row.domain, row.test) for row in report.rows] == [
        (ALL_NEW, "gain"),
        ("code", "shown"),
        ("news", "shown"),
        ("web", "loss"),
    ]
    web = row_of(report, "web", "loss")
    assert web.documents == len(slices[0].candidate) + len(slices[1].candidate)
    assert web.targets == sum(s.targets for part in slices[:2] for s in part.candidate)
    shown = row_of(report, "code", "shown")
    assert shown.difference is not None
    assert (shown.margin, shown.p_met, shown.violated) == (None, None, False)


def test_losses_in_nats_and_bits_are_those_of_the_documents() -> None:
    candidate = (DocumentScore("a", "x", 6.0, 2, 3), DocumentScore("b", "y", 4.0, 3, 2))
    champion = (DocumentScore("a", "x", 7.0, 2, 3), DocumentScore("b", "y", 8.0, 3, 2))
    item = SliceScores(
        name="n@s", domain="n", snapshot="s", role="new", candidate=candidate, champion=champion
    )
    row = decide([item], CONFIG, health=HEALTHY, candidate="b", champion="a").rows[0]
    assert (row.candidate_nats_per_token, row.champion_nats_per_token) == (2.0, 3.0)
    assert row.candidate_bits_per_byte == 10 / math.log(2) / 5
    assert row.difference == -1.0


def first_version(gain: float, config: CheckConfig = CONFIG) -> VerdictReport:
    unigram = scores(3, loss=7.0)
    item = SliceScores(
        name="web@s1",
        domain="web",
        snapshot="s1",
        role="new",
        candidate=shifted(unigram, -gain, 4),
        unigram=unigram,
    )
    return decide([item], config, health=HEALTHY, candidate="1-a", champion=None)


def test_a_first_version_passes_when_it_beats_a_unigram_model_clearly() -> None:
    report = first_version(2.0)
    assert report.verdict == "PASS"
    assert report.rows[0].against == "unigram"
    assert report.rows[0].margin == -0.5
    assert "compared with a unigram model" in report.reasons[-1]


def test_a_first_version_fails_when_it_hardly_beats_a_unigram_model() -> None:
    assert first_version(0.3).verdict == "FAIL"


def test_an_imported_base_without_reference_is_at_best_ambiguous() -> None:
    def judged(config: CheckConfig, gain: float = 0.1) -> VerdictReport:
        slices = [part("news", "new", -gain, seed=1)]
        return decide(
            slices, config, health=HEALTHY, candidate="2", champion="1", unguarded_base=True
        )

    report = judged(CONFIG)
    assert report.verdict == "AMBIGUOUS"
    assert "no reference" in report.reason
    accepted = judged(replace(CONFIG, accept_unguarded=True))
    assert accepted.verdict == "PASS"
    assert any("not guarded" in reason for reason in accepted.reasons)
    assert judged(CONFIG, gain=-0.1).verdict == "FAIL"


def test_nothing_old_to_guard_is_said() -> None:
    report = judge({})
    assert report.verdict == "PASS"
    assert "No old slices are guarded: a loss of old knowledge would not be seen." in report.reasons


def test_without_new_text_no_gain_can_be_shown() -> None:
    slices = [part("web", "old", 0.0, seed=1)]
    report = decide(slices, CONFIG, health=HEALTHY, candidate="2", champion="1")
    assert report.verdict == "AMBIGUOUS"
    assert "no held-out new text" in report.reason


def test_small_losses_do_not_add_up_unseen() -> None:
    """0.03 more than the champion, which is allowed, but 0.16 more than the best version."""
    old = part("web", "old", 0.03, seed=1)
    champion = old.champion or ()
    best = EarlierScores(version="1-a", scores=shifted(champion, -0.13, 5))
    other = EarlierScores(version="2-b", scores=shifted(champion, -0.01, 6))
    slices = [part("news", "new", -0.1, seed=9), replace(old, earlier=(other, best))]
    report = decide(slices, CONFIG, health=HEALTHY, candidate="4-d", champion="3-c")
    assert report.verdict == "FAIL"
    assert "above that of 1-a, the best so far" in report.reason
    assert row_of(report, "web", "loss").passed
    assert row_of(report, "web", "cumulative").violated


def test_an_earlier_version_within_the_cumulative_margin_does_not_matter() -> None:
    old = part("web", "old", 0.02, seed=1)
    earlier = EarlierScores(version="1-a", scores=shifted(old.champion or (), -0.03, 5))
    slices = [part("news", "new", -0.1, seed=9), replace(old, earlier=(earlier,))]
    report = decide(slices, CONFIG, health=HEALTHY, candidate="4-d", champion="3-c")
    assert report.verdict == "PASS"
    assert row_of(report, "web", "cumulative").margin == 0.1


def against_earlier(*shifts: tuple[str, float]) -> DomainRow:
    """The cumulative row of a candidate 0.02 above its champion, with versions by their shifts."""
    old = part("web", "old", 0.02, seed=1)
    earlier = tuple(
        EarlierScores(version=name, scores=shifted(old.champion or (), shift, 5 + at))
        for at, (name, shift) in enumerate(shifts)
    )
    slices = [part("news", "new", -0.1, seed=9), replace(old, earlier=earlier)]
    report = decide(slices, CONFIG, health=HEALTHY, candidate="40-d", champion="39-c")
    return row_of(report, "web", "cumulative")


def test_versions_that_differ_by_chance_do_not_make_each_other_the_best() -> None:
    assert against_earlier(*((f"{at}-v", 0.0) for at in range(1, 31))).against == "1-v"


def test_a_version_that_is_shown_to_be_better_is_the_best_from_then_on() -> None:
    row = against_earlier(("1-a", 0.0), ("2-b", -0.04), ("10-c", -0.01), ("11-d", -0.15))
    assert row.against == "11-d"
    assert row.violated
    assert against_earlier(("1-a", 0.0), ("2-b", -0.04), ("10-c", -0.01)).against == "2-b"


def test_slow_erosion_is_measured_from_where_it_began() -> None:
    row = against_earlier(*((f"{at}-v", 0.02 * at - 0.14) for at in range(1, 7)))
    assert row.against == "1-v"
    assert row.violated


def test_slices_that_the_best_version_never_saw_are_compared_with_the_first_that_did() -> None:
    first, second = (part("web", "old", 0.0, seed=at, snapshot=f"s{at}") for at in (1, 20))
    slices = [
        part("news", "new", -0.1, seed=9),
        replace(
            first,
            earlier=tuple(
                EarlierScores(version=name, scores=first.champion or ()) for name in ("1-a", "2-b")
            ),
        ),
        replace(
            second,
            earlier=(EarlierScores(version="2-b", scores=shifted(second.champion or (), -0.5, 3)),),
        ),
    ]
    report = decide(slices, CONFIG, health=HEALTHY, candidate="4-d", champion="3-c")
    row = row_of(report, "web", "cumulative")
    assert row.targets == sum(score.targets for item in (first, second) for score in item.candidate)
    assert row.violated


def test_small_levels_and_many_tests_can_still_fail_a_loss() -> None:
    """A level shared over six attempts and twenty domains: resamples enough for Holm's first."""
    report = judge(
        {f"d{at}": 0.0 for at in range(19)} | {"lost": 0.2}, config=replace(CONFIG, alpha=0.05 / 6)
    )
    assert report.verdict == "FAIL"
    assert report.resamples * (0.05 / 6 / 21) >= 5 - 1e-9
    assert row_of(report, "lost", "loss").violated


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("index", "who"),
    [(0, "candidate"), (0, "champion"), (1, "candidate"), (1, "champion"), (1, "earlier")],
)
def test_a_score_that_is_not_a_number_never_passes(value: float, index: int, who: str) -> None:
    slices = [part("news", "new", -1.0, seed=1), part("web", "old", -1.0, seed=5)]
    good = slices[index].candidate
    bad = (*good[:3], replace(good[3], nats=value), *good[4:])
    if who == "candidate":
        slices[index] = replace(slices[index], candidate=bad)
    elif who == "champion":
        slices[index] = replace(slices[index], champion=bad)
    else:
        slices[index] = replace(slices[index], earlier=(EarlierScores(version="0", scores=bad),))
    report = decide(slices, CONFIG, health=HEALTHY, candidate="2", champion="1")
    assert report.verdict == "FAIL"
    assert "not finite numbers" in report.reason


def test_a_candidate_with_broken_logits_fails_whatever_its_scores() -> None:
    slices = [part("news", "new", -1.0, seed=1)]
    report = decide(slices, CONFIG, health=Health(finite=False), candidate="2", champion="1")
    assert report.verdict == "FAIL"
    assert report.reason == "The candidate's logits are not finite numbers."


def test_a_candidate_that_writes_nothing_fails() -> None:
    slices = [part("news", "new", -1.0, seed=1)]
    mute = Health(finite=True, probes=4, empty=4)
    report = decide(slices, CONFIG, health=mute, candidate="2", champion="1")
    assert report.verdict == "FAIL"
    assert "all 4 continuations end at once" in report.reason


def test_too_few_clusters_are_for_a_person() -> None:
    base = scores(1, clusters=1)
    item = SliceScores(
        name="news@s",
        domain="news",
        snapshot="s",
        role="new",
        candidate=shifted(base, -1.0, 2),
        champion=base,
    )
    report = decide([item], CONFIG, health=HEALTHY, candidate="2", champion="1")
    assert report.verdict == "AMBIGUOUS"
    assert "too few to bound the difference from 1; hold out more text" in report.reason


def test_a_missing_document_is_an_error_that_names_it() -> None:
    whole = part("web", "old", 0.0, seed=1)
    cut = replace(whole, candidate=whole.candidate[1:])
    with pytest.raises(ValueError, match=r"slice web@s1: .* and 1 were not .* first '0-0'"):
        decide([cut], CONFIG, health=HEALTHY, candidate="2", champion="1")


def test_missing_scores_of_the_champion_are_an_error() -> None:
    item = replace(part("web", "old", 0.0, seed=1), champion=None)
    with pytest.raises(ValueError, match="slice web@s1 has no scores of 1-a"):
        decide([item], CONFIG, health=HEALTHY, candidate="2", champion="1-a")


@settings(max_examples=8, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_verdict_does_not_depend_on_any_order(shuffle: random.Random) -> None:
    old = part("web", "old", 0.04, seed=1)
    earlier = tuple(
        EarlierScores(version=f"v{n}", scores=shifted(old.champion or (), -0.05, n))
        for n in range(3)
    )
    slices = [part("news", "new", -0.03, seed=9), replace(old, earlier=earlier)]
    slices.append(part("web", "old", 0.0, seed=13, snapshot="s2"))
    mixed = [
        replace(
            item,
            candidate=tuple(shuffle.sample(item.candidate, len(item.candidate))),
            champion=tuple(shuffle.sample(item.champion or (), len(item.champion or ()))),
            earlier=tuple(shuffle.sample(item.earlier, len(item.earlier))),
        )
        for item in shuffle.sample(slices, len(slices))
    ]
    expected = decide(slices, CONFIG, health=HEALTHY, candidate="2", champion="1")
    assert decide(mixed, CONFIG, health=HEALTHY, candidate="2", champion="1") == expected


P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=20)


@settings(deadline=None)
@given(P_VALUES)
def test_holm_lies_between_the_raw_p_values_and_bonferroni(p_values: list[float]) -> None:
    for raw, adjusted in zip(p_values, holm(p_values), strict=True):
        assert raw <= adjusted <= min(1.0, len(p_values) * raw)


@settings(deadline=None)
@given(P_VALUES)
def test_holm_keeps_the_order(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    pairs = sorted(zip(p_values, adjusted, strict=True))
    assert [pair[1] for pair in pairs] == sorted(adjusted)


@settings(deadline=None)
@given(P_VALUES, st.floats(0, 1))
def test_holm_grows_with_each_p_value(p_values: list[float], larger: float) -> None:
    grown = [max(p_values[0], larger), *p_values[1:]]
    assert all(a <= b for a, b in zip(holm(p_values), holm(grown), strict=True))


def test_holm_on_a_worked_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_of_nothing_is_nothing() -> None:
    assert holm([]) == []


def test_a_cumulative_margin_below_the_single_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"at least max_loss_nats 0.05, got 0.01"):
        CheckConfig(max_cumulative_loss_nats=0.01)


def test_a_verdict_survives_json(tmp_path: object) -> None:
    from storage.manifest import readable_json, unseal

    report = judge({"web": 0.025})
    assert unseal(readable_json(report), "verdict.json", VerdictReport) == report
