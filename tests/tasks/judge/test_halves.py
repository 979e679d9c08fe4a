from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from tasks.judge.decide import decide
from tasks.judge.halves import FEW_CLUSTERS, half_of, half_of_slices, half_of_tasks
from tasks.judge.verdict import (
    CheckConfig,
    DocumentScore,
    EarlierScores,
    Health,
    SliceScores,
    TaskScores,
)
from training.items.score import ItemScore


def document(number: int, cluster: str) -> DocumentScore:
    return DocumentScore(f"d{number}", cluster, 30.0 + number, 10, 40)


def part(clusters: list[str], **changes: object) -> SliceScores:
    documents = tuple(document(n, cluster) for n, cluster in enumerate(clusters))
    values = {"candidate": documents, "champion": documents, **changes}
    return SliceScores(name="news@s1", domain="news", snapshot="s1", role="old", **values)  # pyright: ignore[reportArgumentType]


@given(st.lists(st.text(max_size=8), max_size=60))
def test_every_item_is_in_one_half_and_a_cluster_is_never_split(clusters: list[str]) -> None:
    whole = part(clusters)
    (selecting,), (judging,) = (half_of_slices([whole], half) for half in ("select", "judge"))
    assert Counter(selecting.candidate + judging.candidate) == Counter(whole.candidate)
    ours, theirs = ({score.cluster for score in item.candidate} for item in (selecting, judging))
    assert not ours & theirs


def test_the_halves_are_about_as_large() -> None:
    count = sum(half_of(f"work-{n}") == "select" for n in range(10_000))
    # Five standard errors of 10,000 fair coins.
    assert abs(count - 5000) < 250


def test_all_models_of_a_slice_keep_the_same_documents() -> None:
    clusters = [f"work-{n // 2}" for n in range(40)]
    whole = part(clusters)
    known = (EarlierScores(version="1-a", scores=whole.candidate),)
    item = part(clusters, unigram=whole.candidate, earlier=known)
    (kept,) = half_of_slices([item], "judge")
    assert 0 < len(kept.candidate) < 40
    assert kept.candidate == kept.champion == kept.unigram == kept.earlier[0].scores


def test_a_guarded_domain_with_nothing_in_a_half_is_not_passed_there() -> None:
    lonely = next(f"work-{n}" for n in range(99) if half_of(f"work-{n}") == "select")
    new = [f"site-{n}" for n in range(60)]
    gained = tuple(
        DocumentScore(score.document, score.cluster, score.nats - 5, 10, 40)
        for score in part(new).candidate
    )
    slices = [
        part([lonely]),
        SliceScores(
            name="web@s2",
            domain="web",
            snapshot="s2",
            role="new",
            candidate=gained,
            champion=part(new).candidate,
        ),
    ]
    report = decide(
        half_of_slices(slices, "judge"),
        CheckConfig(),
        health=Health(finite=True),
        candidate="2-b",
        champion="1-a",
    )
    assert report.verdict == "AMBIGUOUS"
    assert [row.passed for row in report.rows if row.test == "gain"] == [True]
    assert [row.passed for row in report.rows if row.test == "loss"] == [False]


def test_a_small_old_domain_judges_as_a_whole_beside_a_large_one() -> None:
    small = part([f"site-{n}" for n in range(FEW_CLUSTERS - 1)])
    large = replace(part([f"work-{n}" for n in range(FEW_CLUSTERS)]), domain="books")
    judging, large_judging = half_of_slices([small, large], "judge")
    selecting, large_selecting = half_of_slices([small, large], "select")
    assert judging == small
    assert selecting.candidate == ()
    assert 0 < len(large_selecting.candidate) < FEW_CLUSTERS
    assert len(large_judging.candidate) == FEW_CLUSTERS - len(large_selecting.candidate)


def test_a_cluster_that_selects_in_one_slice_judges_in_none() -> None:
    sites = [f"site-{n}" for n in range(FEW_CLUSTERS - 1)]
    small = part(sites)
    fresh = replace(part(sites), role="new", domain="fresh")
    large = replace(part([f"work-{n}" for n in range(FEW_CLUSTERS)]), domain="books")
    halves = [half_of_slices([small, fresh, large], half) for half in ("select", "judge")]
    selecting, judging = (
        {score.cluster for item in half for score in item.candidate} for half in halves
    )
    assert not selecting & judging
    assert any(site in selecting for site in sites)


def test_items_of_tasks_are_split_by_the_same_rule() -> None:
    answers = tuple(
        ItemScore(
            item=str(n), cluster=f"work-{n}", is_correct=True, answer="a", nats=1.0, targets=1
        )
        for n in range(50)
    )
    task = TaskScores(task="cloze", candidate=answers, champion=answers)
    (selecting,) = half_of_tasks([task], "select")
    (judging,) = half_of_tasks([task], "judge")
    assert {half_of(item.cluster) for item in judging.candidate} == {"judge"}
    assert len(selecting.champion) + len(judging.champion) == 50
