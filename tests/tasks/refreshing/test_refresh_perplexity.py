"""Refreshes whose documents are scored by the lineage's champion."""

import json
import random
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from storage.errors import StorageError
from storage.local_objects import LocalObjects
from storage.snapshots import SnapshotManifest, read_snapshot
from tasks.curate import CurateConfig
from tasks.curation.annotate import judge
from tasks.curation.annotation_table import ANNOTATIONS, SCORED_BY, read_annotations
from tasks.curation.config import DomainRules
from tasks.curation.perplexity import PER_BYTE, TOKENS, PerplexityRules
from tasks.refresh import refresh
from tasks.refresh_request import ImportedTokenizer, RefreshRequest, RefreshResult
from tasks.reporting.refresh_report import write_refresh_report
from tasks.sources import SourceConfig
from tasks.split import HoldoutConfig
from tasks.staff import Workers
from tests.support.lineages import LAYOUT, hub_directory, import_champion
from training.cluster.pool import Pool

_WORDS = ["stone", "river", "lamp", "carpet", "hill", "lake", "\N{SNOWMAN}", "qqq"]
_SCORED = PerplexityRules(tokens=30)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hub_directory(tmp_path_factory.mktemp("model"))


def _deliver(folder: Path, seeds: range) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{seeds.start}.jsonl"
    texts = (" ".join(random.Random(seed).choices(_WORDS, k=30)) for seed in seeds)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return folder


def _refresh(
    store: LocalObjects, model: Path, data: Path, rules: PerplexityRules | None = _SCORED
) -> RefreshResult:
    work_dir = data.parent / "work"
    work_dir.mkdir(exist_ok=True)
    request = RefreshRequest(
        sources=(SourceConfig(name="web", uri=str(data), domain="web"),),
        tokenizer=ImportedTokenizer(model),
        seq_len=32,
        holdout=HoldoutConfig(min_clusters=3),
        curate=CurateConfig(domains={"web": DomainRules(perplexity=rules)}),
    )
    return refresh(store, LAYOUT, request, by="test", work_dir=work_dir)


def _manifest(store: LocalObjects, result: RefreshResult) -> SnapshotManifest:
    assert result.snapshot is not None, result.reason
    return replace(read_snapshot(store, LAYOUT, result.snapshot), minted_at="")


def _file(store: LocalObjects, result: RefreshResult, name: str = ANNOTATIONS) -> Path:
    path = store.local_path(f"{LAYOUT.snapshot(_manifest(store, result).id)}/{name}")
    assert path is not None
    return path


def _page(store: LocalObjects, result: RefreshResult, work_dir: Path) -> str:
    return store.get(
        write_refresh_report(store, LAYOUT, _manifest(store, result).id, work_dir)
    ).decode()


def test_a_lineage_without_a_champion_drops_nothing_for_its_perplexity_and_says_so(
    store: LocalObjects, model: Path, tmp_path: Path
) -> None:
    data = _deliver(tmp_path / "data", range(40))
    strict = PerplexityRules(min_nats_per_byte=100)
    result = _refresh(store, model, data, strict)
    assert not result.documents_dropped
    assert [told for told in result.warnings if told.startswith("perplexity of web: ")]
    table = pq.read_table(_file(store, result))
    assert table[PER_BYTE].null_count == len(table) == 40
    assert SCORED_BY.encode() not in (table.schema.metadata or {})
    assert "nothing was scored: the lineage had no champion yet" in _page(store, result, tmp_path)


def test_the_champion_of_the_day_scores_what_is_new_and_the_table_names_it(
    store: LocalObjects, model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    head = import_champion(store, model, tmp_path / "work")
    caplog.set_level("INFO")
    result = _refresh(store, model, _deliver(tmp_path / "data", range(40)))
    assert not result.warnings
    table = pq.read_table(_file(store, result))
    assert table[PER_BYTE].null_count == 0
    assert set(table[TOKENS].to_pylist()) == {30}
    told = json.loads(table.schema.metadata[SCORED_BY.encode()])
    assert told["version"] == head.champion
    assert f"{head.champion} has read 1,200 tokens of 40 documents in " in caplog.text
    # The page says between which values thresholds may lie.
    nats = sorted(table[PER_BYTE].to_pylist())
    told = re.search(
        rf"web: 40 documents scored by {head.champion}; 5% of them below ([0-9.]+), half below "
        r"([0-9.]+), 5% above ([0-9.]+) nats a byte",
        _page(store, result, tmp_path),
    )
    assert told is not None
    for value, quantile in zip(
        map(float, told.groups()), (nats[1], nats[19], nats[37]), strict=True
    ):
        assert quantile < value <= quantile + 0.0101


def test_a_threshold_drops_with_its_reason_and_another_needs_neither_text_nor_model(
    store: LocalObjects, model: Path, tmp_path: Path
) -> None:
    head = import_champion(store, model, tmp_path / "work")
    first = _refresh(store, model, _deliver(tmp_path / "data", range(40)))
    low, high = sorted(pq.read_table(_file(store, first))[PER_BYTE].to_pylist())[10::19]
    strict = PerplexityRules(tokens=30, min_nats_per_byte=low, max_nats_per_byte=high)
    domains, stored = read_annotations(_file(store, first))
    wanted = judge(stored, domains, {"web": DomainRules(perplexity=strict)})
    assert wanted.count("perplexity:too_low") == wanted.count("perplexity:too_high") == 10
    # The same documents in a lineage that had the threshold from the start.
    second_store = LocalObjects(tmp_path / "second")
    import_champion(second_store, model, tmp_path / "work")
    second = _refresh(second_store, model, tmp_path / "data", strict)
    dropped = pq.read_table(_file(second_store, second, "documents.parquet"))["reason"]
    assert dropped.to_pylist() == wanted
    assert second.documents_dropped == {"perplexity:too_low": 10, "perplexity:too_high": 10}
    shutil.rmtree(tmp_path / "store" / LAYOUT.model(head.champion or ""))
    assert judge(stored, domains, {"web": DomainRules(perplexity=strict)}) == wanted


def test_batches_of_another_cut_give_the_same_numbers(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = _deliver(tmp_path / "data", range(40))
    found: set[bytes] = set()
    for batch_items in (512, 7, 1):
        monkeypatch.setattr("tasks.source_reading._BATCH_ITEMS", batch_items)
        store = LocalObjects(tmp_path / f"store-{batch_items}")
        import_champion(store, model, tmp_path / "work")
        stored = read_annotations(_file(store, _refresh(store, model, data)))[1][PER_BYTE]
        assert len(set(stored)) > 30
        found.add(stored.tobytes())
    assert len(found) == 1


def test_another_champion_makes_another_snapshot_only_where_it_is_asked(
    model: Path, tmp_path: Path
) -> None:
    data = _deliver(tmp_path / "data", range(40))
    other = hub_directory(tmp_path / "other", seed=4)
    ids: dict[bool, list[str]] = {True: [], False: []}
    for is_asked, found in ids.items():
        for number, directory in enumerate((model, model, other)):
            store = LocalObjects(tmp_path / f"store-{is_asked}-{number}")
            import_champion(store, directory, tmp_path / "work")
            result = _refresh(store, model, data, _SCORED if is_asked else None)
            found.append(_manifest(store, result).id)
    first, again, another = ids[True]
    assert first == again != another
    assert len(set(ids[False])) == 1


def test_without_the_champions_model_a_refresh_ends_and_changes_nothing(
    store: LocalObjects, model: Path, tmp_path: Path
) -> None:
    head = import_champion(store, model, tmp_path / "work")
    data = _deliver(tmp_path / "data", range(40))
    store.delete(f"{LAYOUT.model(head.champion or '')}/manifest.json")
    with pytest.raises(StorageError, match=r"manifest\.json"):
        _refresh(store, model, data)
    assert not list((tmp_path / "store").rglob("documents.parquet"))
    assert _refresh(store, model, data, None).snapshot is not None


def test_workers_are_employed_sooner_where_a_model_reads() -> None:
    pool = Pool(what="refreshing", num_workers=2, address=None, max_failures=0, wait_seconds=1)
    workers = Workers(pool)
    assert workers.for_bytes(5_000_000, are_scored=False).is_here
    assert not workers.for_bytes(5_000_000, are_scored=True).is_here
    assert workers.for_bytes(500_000, are_scored=True).is_here
