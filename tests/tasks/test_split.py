import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.split import (
    SPLITS,
    HoldoutConfig,
    Side,
    Split,
    SplitRows,
    key_of,
    rank_of,
)
from tasks.split import split_by_cluster as split_arrays


@dataclass(frozen=True)
class SplitRow:
    """One kept document."""

    domain: str
    cluster: str
    tokens: int


@dataclass(frozen=True)
class SplitResult:
    """The sides of all clusters, by domain and cluster."""

    splits: dict[tuple[str, str], Split]
    warnings: list[str]


def split_by_cluster(
    rows: Sequence[SplitRow],
    known_side: Callable[[bytes], Side | None],
    config: HoldoutConfig,
    *,
    lineage: str,
) -> SplitResult:
    names = list(dict.fromkeys(row.domain for row in rows))
    splits, warnings = split_arrays(
        SplitRows(
            domain_names=names,
            domains=np.array([names.index(row.domain) for row in rows], np.int32),
            cluster_keys=np.array([key_of(row.cluster) for row in rows], "S16"),
            ranks=np.array([rank_of(lineage, row.domain, row.cluster) for row in rows], float),
            tokens=np.array([row.tokens for row in rows], np.int64),
            was_held_out=np.array([known_side(key_of(r.cluster)) == "holdout" for r in rows], bool),
            was_trained_on=np.array([known_side(key_of(r.cluster)) == "train" for r in rows], bool),
        ),
        config,
    )
    found: dict[tuple[str, str], Split] = {}
    for row, split in zip(rows, splits.tolist(), strict=True):
        # All documents of a cluster lie on one side.
        assert found.setdefault((row.domain, row.cluster), SPLITS[split]) == SPLITS[split]
    return SplitResult(found, warnings)


_rows = st.lists(
    st.builds(
        SplitRow,
        domain=st.sampled_from(["code", "web"]),
        cluster=st.integers(0, 40).map(str),
        tokens=st.integers(1, 60),
    ),
    max_size=60,
)
_configs = st.builds(
    HoldoutConfig,
    fraction=st.sampled_from([0.01, 0.1, 0.5]),
    min_clusters=st.integers(1, 10),
    max_tokens=st.integers(1, 500),
)


def _new(cluster_key: bytes) -> None:
    return None


def _documents(domain: str, clusters: int, tokens: int = 10) -> list[SplitRow]:
    return [SplitRow(domain=domain, cluster=f"c{i}", tokens=tokens) for i in range(clusters)]


def _held(result: SplitResult, domain: str) -> set[str]:
    return {c for (d, c), split in result.splits.items() if d == domain and split == "holdout"}


def _sides_after(known: dict[bytes, Side], result: SplitResult) -> dict[bytes, Side]:
    found: dict[bytes, Side] = dict(known)
    for (_, cluster), split in result.splits.items():
        found[key_of(cluster)] = "train" if split == "train" else "holdout"
    return found


@given(snapshots=st.lists(_rows, max_size=4), config=_configs)
def test_no_cluster_is_ever_on_both_sides_over_a_sequence_of_snapshots(
    snapshots: list[list[SplitRow]], config: HoldoutConfig
) -> None:
    known: dict[bytes, Side] = {}
    trained: set[str] = set()
    held: set[str] = set()
    for rows in snapshots:
        result = split_by_cluster(rows, known.get, config, lineage="demo")
        assert set(result.splits) == {(row.domain, row.cluster) for row in rows}
        for (_, cluster), split in result.splits.items():
            (trained if split == "train" else held).add(cluster)
        known = _sides_after(known, result)
        assert not trained & held


@given(rows=_rows, config=_configs, seed=st.integers())
def test_the_split_does_not_depend_on_the_order_of_documents(
    rows: list[SplitRow], config: HoldoutConfig, seed: int
) -> None:
    shuffled = random.Random(seed).sample(rows, len(rows))
    assert split_by_cluster(rows, _new, config, lineage="demo") == split_by_cluster(
        shuffled, _new, config, lineage="demo"
    )


@given(rows=_rows, config=_configs)
def test_a_holdout_keeps_its_bounds(rows: list[SplitRow], config: HoldoutConfig) -> None:
    result = split_by_cluster(rows, _new, config, lineage="demo")
    for domain in {row.domain for row in rows}:
        clusters = {row.cluster for row in rows if row.domain == domain}
        held = _held(result, domain)
        tokens = sum(row.tokens for row in rows if row.domain == domain and row.cluster in held)
        assert tokens <= config.max_tokens
        shared = {row.cluster for row in rows if row.domain < domain}
        assert len(held - shared) <= len(clusters) // 2


def test_the_share_of_held_out_clusters_is_the_fraction() -> None:
    config = HoldoutConfig(fraction=0.05, min_clusters=1, max_tokens=10**9)
    result = split_by_cluster(_documents("web", 10_000), _new, config, lineage="demo")
    # Four standard deviations of a binomial of 10,000 at 0.05 are 87.
    assert len(_held(result, "web")) == pytest.approx(500, abs=87)


def test_a_small_domain_holds_out_the_minimum_but_at_most_half() -> None:
    config = HoldoutConfig(fraction=0.02, min_clusters=8)
    assert (
        len(_held(split_by_cluster(_documents("web", 40), _new, config, lineage="d"), "web")) == 8
    )
    assert len(_held(split_by_cluster(_documents("web", 5), _new, config, lineage="d"), "web")) == 2


@pytest.mark.parametrize(
    ("clusters", "held"), [(3, 1), (10, 5), (16, 8), (40, 8), (100, 20), (500, 100), (900, 100)]
)
def test_by_default_a_large_refresh_guards_alone_and_a_small_one_is_mostly_trained_on(
    clusters: int, held: int
) -> None:
    config = HoldoutConfig(fraction=0.001)
    result = split_by_cluster(_documents("web", clusters), _new, config, lineage="demo")
    assert len(_held(result, "web")) == held


def test_who_asks_for_more_gets_up_to_half() -> None:
    config = HoldoutConfig(min_clusters=24, max_fraction=0.5)
    for clusters, held in ((30, 15), (60, 24)):
        result = split_by_cluster(_documents("web", clusters), _new, config, lineage="demo")
        assert len(_held(result, "web")) == held


def test_a_single_cluster_is_trained_on_with_a_warning() -> None:
    result = split_by_cluster(_documents("web", 1), _new, HoldoutConfig(), lineage="demo")
    assert result.splits == {("web", "c0"): "train"}
    assert "domain web: nothing of its 1 clusters is held out" in result.warnings[0]


def test_another_lineage_and_another_domain_hold_out_other_clusters() -> None:
    rows = _documents("web", 400)
    config = HoldoutConfig(fraction=0.1)
    held = _held(split_by_cluster(rows, _new, config, lineage="one"), "web")
    assert held != _held(split_by_cluster(rows, _new, config, lineage="two"), "web")
    other = split_by_cluster(_documents("code", 400), _new, config, lineage="one")
    assert held != _held(other, "code")


def test_new_documents_of_a_held_out_cluster_are_held_out_and_dropped_beyond_the_cap() -> None:
    known: dict[bytes, Side] = {key_of("c0"): "holdout", key_of("c1"): "holdout"}
    rows = [
        SplitRow(domain="web", cluster="c0", tokens=90),
        SplitRow(domain="web", cluster="c1", tokens=90),
        *[SplitRow(domain="web", cluster=f"new{i}", tokens=90) for i in range(6)],
    ]
    config = HoldoutConfig(fraction=0.5, min_clusters=1, max_tokens=100)
    splits = split_by_cluster(rows, known.get, config, lineage="demo").splits
    assert sorted([splits["web", "c0"], splits["web", "c1"]]) == ["dropped", "holdout"]
    assert {splits["web", f"new{i}"] for i in range(6)} == {"train"}


def test_a_giant_cluster_does_not_leave_a_domain_without_a_holdout() -> None:
    config = HoldoutConfig(min_clusters=2, max_tokens=100)
    for giant in range(6):
        rows = _documents("web", 6)
        rows[giant] = SplitRow(domain="web", cluster=f"c{giant}", tokens=101)
        held = _held(split_by_cluster(rows, _new, config, lineage="demo"), "web")
        assert len(held) == 2
        assert f"c{giant}" not in held


def test_the_choice_of_clusters_is_golden() -> None:
    # Another choice would move documents of running lineages from one side to the other.
    result = split_by_cluster(_documents("web", 20), _new, HoldoutConfig(), lineage="demo")
    assert sorted(_held(result, "web")) == ["c10", "c11", "c18", "c19", "c3", "c4", "c6", "c8"]
    assert key_of("c0").hex() == "122c597083bd438b7f6d72af75d02594"
