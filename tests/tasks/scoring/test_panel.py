"""What is judged over many nights: bounded, mostly on record already, and told before training."""

from pathlib import Path

import pytest

from tasks.judge.verdict import CheckConfig
from tasks.scoring.guards import MAX_GUARDS, PRIOR_SPREAD
from tasks.scoring.panel import Panel
from tests.support.holdout_nights import Nights

CONFIG = CheckConfig(judged_tokens=200_000)


@pytest.fixture(scope="module")
def thirty(tmp_path_factory: pytest.TempPathFactory) -> list[Panel]:
    """The panels of thirty nights."""
    nights = Nights(tmp_path_factory.mktemp("nights"))
    panels: list[Panel] = []
    for _ in range(30):
        nights.refresh()
        panels.append(nights.panel(CONFIG))
    return panels


def units(panel: Panel) -> set[str]:
    return {item.units.id_of(index) for item in panel.slices for index in range(item.depth)}


def test_what_is_scored_does_not_grow_with_the_nights(thirty: list[Panel]) -> None:
    old = [sum(item.tokens for item in panel.slices if item.role == "old") for panel in thirty]
    new = [sum(item.tokens for item in panel.slices if item.role == "new") for panel in thirty]
    assert old[0] == 0
    assert max(old) <= CONFIG.judged_tokens
    assert old[29] <= max(old[20:25])
    # The newest refresh is as large as any, and all of it is scored.
    assert max(new) < 1.25 * min(new)
    assert all(len(panel.guards) <= MAX_GUARDS for panel in thirty)


def test_what_is_scored_tonight_is_on_record_since_last_night(thirty: list[Panel]) -> None:
    known: set[str] = set()
    for panel in thirty:
        fresh = {item.item.name for item in panel.slices if item.role == "new"}
        for name in units(panel) - known:
            # Only what is new tonight is new to the record.
            assert name.rpartition("/")[0].rpartition("/")[0] in fresh
        known |= units(panel)


def test_every_refresh_is_in_a_guard(thirty: list[Panel]) -> None:
    guarded = [name for guard in thirty[-1].guards for name in guard.slices]
    assert len(guarded) == len(set(guarded)) == 2 * 29
    assert all(guard.is_guarded for guard in thirty[-1].guards)


def test_a_slice_has_the_name_of_its_guard(thirty: list[Panel]) -> None:
    for item in thirty[-1].slices:
        if item.role == "new":
            assert item.label == item.item.domain
        else:
            (guard,) = [g for g in thirty[-1].guards if item.item.name in g.slices]
            assert item.label == guard.label
            assert guard.spread == PRIOR_SPREAD


def test_the_same_state_gives_the_same_panel_and_keeps_nothing_unless_asked(
    tmp_path: Path,
) -> None:
    nights = Nights(tmp_path)
    nights.refresh()
    nights.refresh()
    before = [info.key for info in nights.store.list("lineages")]
    first = nights.panel(CONFIG, keep=False)
    assert [info.key for info in nights.store.list("lineages")] == before
    assert nights.panel(CONFIG) == first
    assert len(list(nights.store.list("lineages"))) == len(before) + 4
    assert nights.panel(CONFIG) == first


def test_a_smaller_budget_scores_a_part_of_what_a_larger_one_does(tmp_path: Path) -> None:
    nights = Nights(tmp_path)
    for _ in range(4):
        nights.refresh()
    less, more = (nights.panel(CheckConfig(judged_tokens=n)) for n in (30_000, 60_000))
    assert units(less) < units(more)
    for panel in (less, more):
        for guard in panel.guards:
            assert guard.clusters <= guard.held_out_clusters
