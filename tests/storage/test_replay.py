import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import CorruptError
from storage.local_objects import LocalObjects
from storage.manifest import canonical_json, readable_json
from storage.replay import ReplayManifest, allocate, next_replay, publish_replay, read_replay
from tests.storage.building import LAYOUT

KEYS = st.tuples(
    st.sampled_from(["code", "news", "web"]), st.sampled_from(["s1", "s2", "s3", "s4"])
)
AVAILABLE = st.dictionaries(KEYS, st.integers(0, 60), max_size=12)
BUDGET = st.integers(0, 400)


def per_domain(shares: dict[tuple[str, str], int]) -> dict[str, int]:
    totals: dict[str, int] = {}
    for (domain, _), samples in shares.items():
        totals[domain] = totals.get(domain, 0) + samples
    return totals


def assert_fair(shares: dict[str, int], capacities: dict[str, int]) -> None:
    """Who has less than another by more than one has all it can have."""
    highest = max(shares.values(), default=0)
    for name, share in shares.items():
        assert share >= highest - 1 or share == capacities[name]


@settings(deadline=None)
@given(BUDGET, AVAILABLE)
def test_the_total_is_exact_and_no_stratum_overflows(
    budget: int, available: dict[tuple[str, str], int]
) -> None:
    shares = allocate(budget, available)
    assert shares.keys() == available.keys()
    assert sum(shares.values()) == min(budget, sum(available.values()))
    assert all(0 <= shares[key] <= available[key] for key in shares)


@settings(deadline=None)
@given(BUDGET, AVAILABLE)
def test_domains_and_then_snapshots_share_equally_within_one(
    budget: int, available: dict[tuple[str, str], int]
) -> None:
    shares = allocate(budget, available)
    assert_fair(per_domain(shares), per_domain(available))
    for domain in per_domain(shares):
        within = {snapshot: n for (d, snapshot), n in shares.items() if d == domain}
        assert_fair(within, {s: n for (d, s), n in available.items() if d == domain})


@settings(deadline=None)
@given(BUDGET, AVAILABLE, KEYS, st.integers(0, 60))
def test_one_more_stratum_never_gives_another_one_more(
    budget: int, available: dict[tuple[str, str], int], key: tuple[str, str], samples: int
) -> None:
    available.pop(key, None)
    before = allocate(budget, available)
    after = allocate(budget, {**available, key: samples})
    assert all(after[other] <= before[other] for other in before)


@settings(deadline=None)
@given(BUDGET, st.lists(st.tuples(KEYS, st.integers(0, 60)), unique_by=lambda item: item[0]))
def test_the_order_of_the_strata_does_not_matter(
    budget: int, items: list[tuple[tuple[str, str], int]]
) -> None:
    assert allocate(budget, dict(items)) == allocate(budget, dict(reversed(items)))


def test_a_hand_computed_allocation() -> None:
    available = {("web", "s1"): 100, ("web", "s2"): 100, ("code", "s1"): 5, ("news", "s2"): 40}
    # Three domains of 33 each but code has 5: web and news share 95, news has only 40.
    assert allocate(100, available) == {
        ("code", "s1"): 5,
        ("news", "s2"): 40,
        ("web", "s1"): 28,
        ("web", "s2"): 27,
    }


def test_a_negative_budget_is_refused() -> None:
    with pytest.raises(ValueError, match="expected numbers from 0 on"):
        allocate(-1, {("web", "s1"): 3})


def grown(previous: ReplayManifest | None, snapshot: str, budget_tokens: int) -> ReplayManifest:
    return next_replay(
        previous,
        [(snapshot, "web", 100), (snapshot, "code", 10)],
        budget_tokens=budget_tokens,
        seq_len=8,
        lineage="demo",
    )


def test_versions_only_evict_and_a_larger_budget_finds_all_strata_again(tmp_path: Path) -> None:
    first = grown(None, "s1", 640)
    second = grown(first, "s2", 640)
    assert sum(stratum.samples for stratum in first.strata) == 80
    kept = {(s.snapshot, s.domain): s.samples for s in second.strata}
    assert all(kept[s.snapshot, s.domain] <= s.samples for s in first.strata)
    tiny = grown(second, "s3", 8)
    assert sum(stratum.samples for stratum in tiny.strata) == 1
    assert sum(stratum.samples for stratum in grown(tiny, "s3", 1 << 20).strata) == 330


def test_the_same_content_has_the_same_id_and_is_read_back(tmp_path: Path) -> None:
    store = LocalObjects(tmp_path)
    manifest = grown(None, "s1", 640)
    assert manifest == grown(None, "s1", 640)
    assert manifest.id != grown(None, "s1", 648).id
    publish_replay(store, LAYOUT, manifest)
    publish_replay(store, LAYOUT, manifest)
    assert read_replay(store, LAYOUT, manifest.id) == manifest
    body = canonical_json(manifest).replace(b'"samples":10', b'"samples":11')
    store.put(LAYOUT.replay_manifest(manifest.id), readable_json(json.loads(body)))
    with pytest.raises(CorruptError, match="was altered: its content has the id"):
        read_replay(store, LAYOUT, manifest.id)


def test_contradictions_with_the_earlier_version_are_refused() -> None:
    first = grown(None, "s1", 640)
    with pytest.raises(ValueError, match="counts samples of 8 tokens, not 16"):
        next_replay(first, [], budget_tokens=640, seq_len=16, lineage="demo")
    with pytest.raises(ValueError, match="100 samples of web@s1, the snapshot now says 99"):
        next_replay(first, [("s1", "web", 99)], budget_tokens=640, seq_len=8, lineage="demo")
