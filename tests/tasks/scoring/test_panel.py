"""What is judged over many nights: bounded, mostly on record already, and told before training."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from storage.head import Head, SnapshotRecord, next_head
from storage.layout import Layout
from storage.local_objects import LocalObjects
from storage.manifest import content_hash
from storage.snapshots import DomainSlice, SnapshotManifest, mint
from storage.suite import SuiteManifest, suite_of
from tasks.judge.verdict import CheckConfig
from tasks.scoring.guards import MAX_GUARDS, PRIOR_SPREAD
from tasks.scoring.panel import Panel, panel_of
from training.data.holdout import HoldoutDocument
from training.shard_writer import write_holdout_shards

LAYOUT = Layout("demo")
CONFIG = CheckConfig(judged_tokens=200_000)
CLUSTERS = 120


class Nights:
    """Every night a snapshot of two domains, of 120 clusters of 20 to 120 tokens each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = LocalObjects(path / "store")
        self.suite: SuiteManifest | None = None
        self.head: Head = next_head(None, action="init", by="test", lineage="demo")

    def refresh(self) -> None:
        """Mint tonight's snapshot, and learn those before."""
        night = len(self.head.snapshots) + 1
        identity = f"{night:064x}"[::-1]
        rng = np.random.default_rng(night)
        files, slices = [], []
        for domain in ("news", "code"):
            rows = [
                HoldoutDocument(
                    document=f"{night}-{domain}-{n}",
                    cluster=f"{night}-{domain}-{n}",
                    tokens=np.zeros(rng.integers(20, 120), np.uint16),
                    text_bytes=100,
                )
                for n in range(CLUSTERS)
            ]
            folder = self.path / str(night) / domain / "holdout"
            written = write_holdout_shards(
                rows, folder, token_dtype="uint16", prefix=f"{domain}/holdout"
            )
            files += written
            slices.append(
                DomainSlice(
                    domain=domain,
                    train_samples=1,
                    train_tokens=10,
                    train_documents=1,
                    holdout_documents=len(rows),
                    holdout_clusters=len(rows),
                    holdout_tokens=sum(len(row.tokens) for row in rows),
                    source_names=("s",),
                    licences=("CC0-1.0",),
                )
            )
        for file in files:
            key = f"{LAYOUT.snapshot(identity[:12])}/{file.name}"
            self.store.put_file(key, self.path / str(night) / file.name)
        manifest = SnapshotManifest(
            id=identity[:12],
            lineage="demo",
            identity=identity,
            content=content_hash(files),
            role="new",
            minted_at="2026-01-01T00:00:00+00:00",
            tokenizer="tokenizers/t",
            vocab_size=64,
            start_id=0,
            end_id=0,
            seq_len=16,
            token_dtype="uint16",
            domains=tuple(slices),
            documents_read=240,
            documents_dropped={},
            lines_rejected={},
            files=tuple(files),
        )
        self.suite = suite_of(self.suite, mint(self.store, LAYOUT, manifest))
        learned = [replace(record, state="learned") for record in self.head.snapshots]
        snapshots = (*learned, SnapshotRecord(id=manifest.id, state="pending"))
        self.head = replace(self.head, snapshots=snapshots)

    def panel(self, config: CheckConfig = CONFIG, *, keep: bool = True) -> Panel:
        assert self.suite is not None
        return panel_of(
            self.store,
            LAYOUT,
            head=self.head,
            suite=self.suite,
            new_snapshots=(self.head.snapshots[-1].id,),
            config=config,
            work_dir=self.path / "work",
            keep=keep,
        )


@pytest.fixture(scope="module")
def thirty(tmp_path_factory: pytest.TempPathFactory) -> list[Panel]:
    """The panels of thirty nights."""
    nights = Nights(tmp_path_factory.mktemp("nights"))
    panels: list[Panel] = []
    for _ in range(30):
        nights.refresh()
        panels.append(nights.panel())
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
    first = nights.panel(keep=False)
    assert [info.key for info in nights.store.list("lineages")] == before
    assert nights.panel() == first
    assert len(list(nights.store.list("lineages"))) == len(before) + 4
    assert nights.panel() == first


def test_a_smaller_budget_scores_a_part_of_what_a_larger_one_does(tmp_path: Path) -> None:
    nights = Nights(tmp_path)
    for _ in range(4):
        nights.refresh()
    less, more = (nights.panel(CheckConfig(judged_tokens=n)) for n in (30_000, 60_000))
    assert units(less) < units(more)
    for panel in (less, more):
        for guard in panel.guards:
            assert guard.clusters <= guard.held_out_clusters
