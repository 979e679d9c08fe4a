"""What the scores of two models say about replacing one by the other."""

from dataclasses import replace

import numpy as np
import pytest

from tasks.judge.compare import Comparison, ScoredSlice, compare
from tasks.judge.health import Health, writing_of
from tasks.judge.verdict import CheckConfig, DocumentScore, TaskScores
from training.items.score import ItemScore

CONFIG = CheckConfig(max_loss_nats=0.05)


def slice_of(
    domain: str, shift: float, *, documents: int = 80, noise: float = 0.02, seed: int = 0
) -> ScoredSlice:
    """B's nats per token lie ``shift`` above A's, plus noise by document; 40 to 160 tokens each."""
    rng = np.random.default_rng((seed, len(domain)))
    a: list[DocumentScore] = []
    b: list[DocumentScore] = []
    for number in range(documents):
        targets = int(rng.integers(40, 160))
        ours = DocumentScore(f"d{number}", f"c{number}", 3.0 * targets, targets, 4 * targets)
        change = (shift + noise * rng.standard_normal()) * targets
        a.append(ours)
        b.append(replace(ours, nats=ours.nats + change))
    return ScoredSlice(domain=domain, a=tuple(a), b=tuple(b))


def judged(*slices: ScoredSlice, config: CheckConfig = CONFIG) -> Comparison:
    return compare(slices, config, a="a", b="b")


def meanings(found: Comparison) -> dict[str, str]:
    return {row.domain: row.meaning for row in found.rows}


def test_a_model_against_itself_differs_by_exactly_nothing() -> None:
    same = slice_of("web", 0.0, noise=0.0, documents=1)
    found = judged(same, slice_of("code", 0.0, noise=0.0))
    assert found.verdict == "PASS"
    for row in found.rows:
        assert (row.change, row.lower_bound, row.upper_bound) == (0.0, 0.0, 0.0)
        assert row.meaning == "within the margin"


def test_a_model_that_only_repeats_itself_is_refused_whatever_its_losses() -> None:
    fluent = writing_of([list(range(40))] * 9, [False] * 9)
    stuck = writing_of([[7] * 40] * 9, [False] * 9)
    health = Health(finite=True, probes=9, candidate=stuck, champion=fluent)
    found = compare([slice_of("web", 0.0, noise=0.0)], CONFIG, a="a", b="b", health=health)
    assert (found.verdict, found.rows[0].change) == ("FAIL", 0.0)
    assert "B does not write as A does: the candidate repeats itself" in found.reason
    both = replace(health, champion=stuck)
    assert compare([slice_of("web", 0.0)], CONFIG, a="a", b="b", health=both).verdict == "PASS"


@pytest.mark.parametrize("seed", range(5))
def test_a_loss_of_twice_the_margin_on_one_domain_of_many_is_a_fail(seed: int) -> None:
    found = judged(
        slice_of("web", -0.1, seed=seed), slice_of("books", 0.1, seed=seed), slice_of("code", 0.0)
    )
    assert found.verdict == "FAIL"
    assert meanings(found) == {
        "books": "worse",
        "code": "within the margin",
        "web": "better",
    }
    assert "books (+0." in found.reason
    assert found.reason.endswith("B is better on web.")


@pytest.mark.parametrize("seed", range(5))
def test_half_a_margin_is_allowed_everywhere(seed: int) -> None:
    found = judged(slice_of("web", 0.025, seed=seed), slice_of("books", 0.025, seed=seed))
    assert found.verdict == "PASS"
    assert set(meanings(found).values()) == {"within the margin"}


def test_better_on_all_is_a_pass_that_tells_where() -> None:
    found = judged(slice_of("web", -0.1), slice_of("books", -0.2))
    assert found.verdict == "PASS"
    assert found.reason.endswith("B is better on books, web.")


def test_a_task_that_b_answers_better_is_told_though_a_only_guesses_there() -> None:
    def answers(right: int) -> tuple[ItemScore, ...]:
        return tuple(
            ItemScore(
                item=f"i{number}",
                cluster=f"i{number}",
                is_correct=number < right,
                answer="good" if number < right else "bad",
                nats=1.0,
                targets=1,
            )
            for number in range(100)
        )

    task = TaskScores(
        task="pairs",
        candidate=answers(80),
        champion=answers(50),
        is_guarded=False,
        why_unguarded="at chance level",
    )
    found = compare([], CONFIG, a="a", b="b", tasks=[task])
    assert found.verdict == "AMBIGUOUS"
    assert found.reason.endswith("B is better on pairs.")


@pytest.mark.parametrize("shift", [-0.1, 0.0, 0.1])
def test_two_documents_decide_nothing(shift: float) -> None:
    found = judged(slice_of("web", shift, documents=2), slice_of("books", -0.1))
    assert found.verdict == "AMBIGUOUS"
    assert meanings(found)["web"] == "cannot tell"
    assert "web (too few clusters, 2: give more documents)" in found.reason


def test_pages_of_one_site_are_one_cluster_of_evidence() -> None:
    item = slice_of("web", 0.0, noise=0.2)
    assert judged(item).verdict == "PASS"
    merged = ScoredSlice(
        domain="web",
        a=tuple(replace(score, cluster=f"c{n % 2}") for n, score in enumerate(item.a)),
        b=tuple(replace(score, cluster=f"c{n % 2}") for n, score in enumerate(item.b)),
    )
    assert judged(merged).verdict == "AMBIGUOUS"


def test_slices_of_one_domain_are_judged_together() -> None:
    first, second = slice_of("web", 0.1, seed=1), slice_of("web", 0.1, seed=2)
    (row,) = judged(first, second).rows
    assert row.documents == len(first.a) + len(second.a)


def with_other_tokens(item: ScoredSlice) -> ScoredSlice:
    """B reads the same bytes in half as many tokens."""
    b = tuple(replace(score, targets=max(1, score.targets // 2)) for score in item.b)
    return replace(item, b=b)


@pytest.mark.parametrize(
    ("shift", "verdict"), [(-0.1, "PASS"), (0.0, "PASS"), (0.025, "PASS"), (0.1, "FAIL")]
)
def test_other_tokens_change_the_unit_and_not_the_verdict(shift: float, verdict: str) -> None:
    per_token = judged(slice_of("web", shift))
    per_byte = judged(with_other_tokens(slice_of("web", shift)))
    assert (per_token.unit, per_byte.unit) == ("nats per token", "nats per byte")
    assert per_token.verdict == per_byte.verdict == verdict
    (one,), (other,) = per_token.rows, per_byte.rows
    assert one.change is not None
    # Four bytes a token, see slice_of.
    assert other.change == pytest.approx(one.change / 4)
    assert other.margin == pytest.approx(one.margin / 4)
    assert other.a_bits_per_byte == one.a_bits_per_byte


def test_a_loss_that_is_no_number_is_a_fail() -> None:
    item = slice_of("web", 0.0)
    broken = replace(item, b=(replace(item.b[0], nats=float("nan")), *item.b[1:]))
    found = judged(broken, slice_of("books", 0.0))
    assert found.verdict == "FAIL"
    assert "not finite" in found.reason


def test_other_documents_are_not_compared() -> None:
    item = slice_of("web", 0.0)
    other = replace(item, b=(replace(item.b[0], document="elsewhere"), *item.b[1:]))
    with pytest.raises(ValueError, match="not scored on the same documents"):
        judged(other)


def test_nothing_to_compare_on_is_no_pass() -> None:
    with pytest.raises(ValueError, match="no held-out text"):
        judged()


def test_a_false_alarm_is_rarer_than_alpha() -> None:
    """Of lineages with five domains that sit exactly at the margin, at most alpha fail."""
    failed = 0
    for seed in range(60):
        domains = [
            slice_of("x" * (1 + n), 0.05, seed=seed, documents=30, noise=0.05) for n in range(5)
        ]
        failed += judged(*domains).verdict == "FAIL"
    # alpha plus three standard errors of 60 trials.
    assert failed <= 60 * (0.05 + 3 * (0.05 * 0.95 / 60) ** 0.5)
