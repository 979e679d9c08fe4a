"""At most twenty guards, sharp where the text allows it, at a cost that does not grow."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.judge.power import detectable_effect
from tasks.judge.verdict import DocumentScore
from tasks.scoring.guards import (
    MAX_GUARDS,
    PRIOR_SPREAD,
    OldSlice,
    Pool,
    pool,
    sample,
    spread_of,
)
from training.data.holdout_folder import ScoringUnit

MARGIN = 0.05


def history(nights: int, domains: Mapping[str, int]) -> list[OldSlice]:
    """A slice of every domain a night, with so many clusters."""
    return [
        OldSlice(
            name=f"{domain}@{night}",
            domain=domain,
            refresh=night,
            clusters=clusters,
            tokens=100 * clusters,
        )
        for night in range(1, nights + 1)
        for domain, clusters in domains.items()
    ]


def pooled(
    slices: Sequence[OldSlice],
    *,
    max_tokens: int = 10**9,
    spreads: Mapping[str, float] | None = None,
) -> tuple[Pool, ...]:
    return pool(slices, spreads=spreads or {}, margin=MARGIN, max_tokens=max_tokens)


def labels(pools: Sequence[Pool]) -> list[str]:
    return [found.label for found in pools]


_histories = st.lists(
    st.tuples(st.sampled_from("abcdefgh"), st.integers(1, 900)), min_size=1, max_size=80
).map(
    lambda rows: [
        OldSlice(
            name=f"{domain}@{night}",
            domain=domain,
            refresh=night,
            clusters=clusters,
            tokens=100 * clusters,
        )
        for night, (domain, clusters) in enumerate(rows, start=1)
    ]
)


@settings(max_examples=30, deadline=None)
@given(slices=_histories)
def test_every_slice_is_in_one_pool_of_neighbours_of_its_domain(slices: list[OldSlice]) -> None:
    pools = pooled(slices)
    assert sorted(name for found in pools for name in found.slices) == sorted(
        item.name for item in slices
    )
    assert sum(found.is_guarded for found in pools) <= MAX_GUARDS
    assert len(set(labels(pools))) == len(pools)
    for domain in {item.domain for item in slices}:
        in_time = [name for found in pools if found.domain == domain for name in found.slices]
        assert in_time == [item.name for item in slices if item.domain == domain]


@settings(max_examples=30, deadline=None)
@given(slices=_histories)
def test_a_domain_of_several_pools_has_only_sharp_ones(slices: list[OldSlice]) -> None:
    pools = pooled(slices)
    clusters = {item.name: item.clusters for item in slices}
    for found in pools:
        if found.label != found.domain:
            count = sum(clusters[name] for name in found.slices)
            effect = detectable_effect([1] * count, PRIOR_SPREAD, 0.05)
            assert effect is not None
            assert effect <= MARGIN


@settings(max_examples=30, deadline=None)
@given(slices=_histories, more=st.integers(1, 10))
def test_pools_that_were_separate_merge_and_are_never_split(
    slices: list[OldSlice], more: int
) -> None:
    # But for the newest of a domain, which may wait in its neighbour until it is large enough.
    before, after = (pooled(part) for part in (slices[:-more], slices))
    where = {name: found.label for found in after for name in found.slices}
    for domain in {found.domain for found in before}:
        for found in [one for one in before if one.domain == domain][:-1]:
            assert len({where[name] for name in found.slices}) == 1


def test_large_slices_guard_alone_and_are_named_after_their_refresh() -> None:
    assert labels(pooled(history(3, {"web": 900}))) == [
        "web refresh 1",
        "web refresh 2",
        "web refresh 3",
    ]
    assert labels(pooled(history(1, {"web": 900}))) == ["web"]


def test_small_slices_are_pooled_with_their_neighbours_in_time() -> None:
    assert labels(pooled(history(10, {"web": 100}))) == [
        "web refreshes 1-4",
        "web refreshes 5-10",
    ]
    # Known to be quiet, a hundred clusters are enough.
    assert len(pooled(history(10, {"web": 100}), spreads={"web": 0.07})) == 10


def test_domains_share_the_guards_fairly() -> None:
    pools = pooled(history(30, {"code": 900, "news": 900, "web": 900}))
    counts = {
        domain: sum(found.domain == domain for found in pools) for domain in ("code", "news", "web")
    }
    assert sum(counts.values()) == MAX_GUARDS
    assert max(counts.values()) - min(counts.values()) <= 1


@settings(max_examples=30, deadline=None)
@given(slices=_histories, max_tokens=st.integers(1000, 200_000))
def test_the_shares_keep_the_budget_and_all_that_can_be_sharp_is(
    slices: list[OldSlice], max_tokens: int
) -> None:
    pools = pooled(slices, max_tokens=max_tokens)
    assert sum(found.max_tokens for found in pools) <= max_tokens
    # Sizes are even here, so the share of a pool is a number of clusters of 100 tokens.
    for found in pools:
        if found.label != found.domain:
            effect = detectable_effect([1] * (found.max_tokens // 100), PRIOR_SPREAD, 0.05)
            assert effect is not None
            assert effect <= MARGIN


def test_what_all_can_be_scored_of_is_scored_of_all_whatever_it_needs() -> None:
    slices = history(4, {"news": 20, "web": 900, "quiet": 30})
    held_out = {
        domain: sum(item.tokens for item in slices if item.domain == domain)
        for domain in ("news", "web", "quiet")
    }
    spreads = {"quiet": 1 / 128}
    pools = pooled(slices, spreads=spreads, max_tokens=sum(held_out.values()))
    for domain, tokens in held_out.items():
        assert sum(found.max_tokens for found in pools if found.domain == domain) == tokens


@settings(max_examples=50, deadline=None)
@given(slices=_histories, max_tokens=st.integers(1000, 200_000))
def test_no_budget_is_left_while_a_guard_could_use_it(
    slices: list[OldSlice], max_tokens: int
) -> None:
    pools = pooled(slices, max_tokens=max_tokens)
    held_out = {item.name: item.tokens for item in slices}
    could_use = [sum(held_out[name] for name in found.slices) for found in pools]
    used = sum(found.max_tokens for found in pools)
    assert all(found.max_tokens <= most for found, most in zip(pools, could_use, strict=True))
    assert used >= min(max_tokens, sum(could_use)) - len(pools)


def test_a_small_budget_makes_few_sharp_guards_rather_than_many_blunt_ones() -> None:
    slices = history(30, {"web": 900})
    assert len(pooled(slices)) == MAX_GUARDS
    # It takes 365 clusters of 100 tokens to show half of the margin.
    assert len(pooled(slices, max_tokens=200_000)) == 5


def test_of_too_many_domains_the_smallest_inform() -> None:
    domains = {f"d{number:02}": 500 + number for number in range(25)}
    pools = pooled(history(2, domains))
    assert [found.label for found in pools if not found.is_guarded] == [
        f"d{number:02}" for number in range(5)
    ]


def unit(slice_name: str, index: int, clusters: int = 10, targets: int = 500) -> ScoringUnit:
    return ScoringUnit(
        rows=tuple(range(clusters)),
        documents=tuple(f"{slice_name}-{index}-{n}" for n in range(clusters)),
        clusters=tuple(f"{slice_name}-{index}-{n}" for n in range(clusters)),
        targets=(targets,) * clusters,
        text_bytes=(targets,) * clusters,
    )


def units_of(name: str) -> list[ScoringUnit]:
    return [unit(name, index) for index in range(20)]


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 40), more=st.integers(1, 40))
def test_with_slices_more_each_other_one_keeps_at_most_what_it_had(count: int, more: int) -> None:
    names = [f"web@{number}" for number in range(count + more)]
    few, many = (
        sample(part, units_of, max_tokens=100_000, spread=0.5, margin=MARGIN)[0]
        for part in (names[:count], names)
    )
    assert all(many.get(name, 0) <= few.get(name, 0) for name in names[:count])


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 60), max_tokens=st.integers(5_000, 300_000))
def test_a_sample_keeps_its_budget(count: int, max_tokens: int) -> None:
    names = [f"web@{number}" for number in range(count)]
    depths, sizes = sample(names, units_of, max_tokens=max_tokens, spread=0.5, margin=MARGIN)
    assert sizes.tokens == 5_000 * sum(depths.values()) <= max_tokens


def test_a_sample_ends_when_more_would_decide_nothing() -> None:
    depths, sizes = sample(
        ["web@1", "web@2"], units_of, max_tokens=10**9, spread=0.06, margin=MARGIN
    )
    assert sum(depths.values()) < 40
    assert len(sizes.by_cluster) >= 100
    effect = sizes.detectable(0.06, 0.05)
    assert effect is not None
    assert MARGIN / 4 < effect < MARGIN / 2


def test_slices_that_are_not_reached_are_not_read() -> None:
    read: list[str] = []

    def reading(name: str) -> list[ScoringUnit]:
        read.append(name)
        return units_of(name)

    names = [f"web@{number}" for number in range(500)]
    sample(names, reading, max_tokens=50_000, spread=0.5, margin=MARGIN)
    assert len(set(read)) <= 11


def test_a_slice_of_one_giant_cluster_is_scored_all_the_same() -> None:
    giant = unit("web@1", 0, clusters=1, targets=90_000)
    depths, sizes = sample(["web@1"], lambda _: [giant], max_tokens=50, spread=0.1, margin=MARGIN)
    assert depths == {"web@1": 1}
    assert sizes.detectable(0.1, 0.05) is None


def scores(rng: np.random.Generator, clusters: int, spread: float) -> list[DocumentScore]:
    sizes = rng.integers(100, 1000, clusters)
    nats = sizes * rng.normal(3.0, spread, clusters)
    return [
        DocumentScore(f"d{n}", f"c{n}", float(nats[n]), int(sizes[n]), 9) for n in range(clusters)
    ]


@pytest.mark.parametrize("spread", [0.03, 0.1, 0.3])
def test_the_spread_is_found_and_rounded_up(spread: float) -> None:
    rng = np.random.default_rng(7)
    pairs: list[tuple[list[DocumentScore], list[DocumentScore]]] = []
    for _ in range(3):
        one = scores(rng, 400, spread)
        other = [
            DocumentScore(row.document, row.cluster, 2.9 * row.targets, row.targets, 9)
            for row in one
        ]
        pairs.append((one, other))
    # Rounded up by at most a factor of the square root of 2; a standard error of 1,200 is 3 %.
    assert 0.94 * spread <= spread_of(pairs) <= 1.06 * np.sqrt(2) * spread


def test_too_few_clusters_tell_no_spread() -> None:
    few = scores(np.random.default_rng(7), 8, 0.01)
    assert spread_of([(few, few)]) == PRIOR_SPREAD
    assert spread_of([]) == PRIOR_SPREAD


def test_a_model_that_did_not_change_tells_a_small_spread_and_not_none() -> None:
    same = scores(np.random.default_rng(7), 50, 0.1)
    assert 0 < spread_of([(same, same)]) < 0.01
