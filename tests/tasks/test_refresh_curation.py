"""Refreshes whose rules learn from files, cap shares, or meet edited held-out documents."""

import json
import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from storage.layout import Layout
from storage.local_objects import LocalObjects
from storage.snapshots import read_snapshot
from tasks.curate import CurateConfig
from tasks.curation.annotation_table import ANNOTATIONS, LEARNED_FROM
from tasks.curation.config import DomainRules
from tasks.curation.quality import QualityRules
from tasks.refresh import refresh
from tasks.refresh_request import RefreshRequest, RefreshResult, TrainedTokenizer
from tasks.sources import SourceConfig
from tasks.split import HoldoutConfig

_LAYOUT = Layout("demo")
_WORDS = ["stone", "river", "lamp", "carpet", "window", "harbour", "north", "seven"]
_OTHERS = ["query", "index", "buffer", "socket", "thread", "kernel", "packet", "cursor"]


def _text(seed: int, words: list[str] = _WORDS) -> str:
    return f"{seed}: " + " ".join(random.Random(seed).choices(words, k=30))


def _write(path: Path, texts: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def _source(path: Path, name: str = "web", domain: str = "") -> SourceConfig:
    return SourceConfig(name=name, uri=str(path), domain=domain or name)


def _refresh(
    store: LocalObjects, work: Path, *sources: SourceConfig, curate: CurateConfig
) -> RefreshResult:
    work.mkdir(exist_ok=True)
    request = RefreshRequest(
        sources=sources,
        tokenizer=TrainedTokenizer(290),
        seq_len=32,
        holdout=HoldoutConfig(min_clusters=3),
        curate=curate,
    )
    return refresh(store, _LAYOUT, request, by="test", work_dir=work)


@pytest.fixture
def store(tmp_path: Path) -> LocalObjects:
    return LocalObjects(tmp_path / "store")


def _classified(tmp_path: Path) -> CurateConfig:
    rules = QualityRules(
        reference=str(_write(tmp_path / "good.jsonl", [_text(n) for n in range(1000, 1150)])),
        random=str(_write(tmp_path / "any.jsonl", [_text(n, _OTHERS) for n in range(150)])),
        min_score=0.5,
    )
    return CurateConfig(domains={"web": DomainRules(quality=rules)})


def test_a_refresh_drops_what_is_less_like_the_reference_and_keeps_the_scores(
    store: LocalObjects, tmp_path: Path
) -> None:
    texts = [_text(n) for n in range(40)] + [_text(n, _OTHERS) for n in range(500, 540)]
    source = _source(_write(tmp_path / "data.jsonl", texts))
    curate = _classified(tmp_path)
    result = _refresh(store, tmp_path / "work", source, curate=curate)
    assert result.documents_dropped == {"quality:low_score": 40}
    assert result.snapshot is not None
    prefix = _LAYOUT.snapshot(result.snapshot)
    path = store.local_path(f"{prefix}/{ANNOTATIONS}")
    assert path is not None
    scores = pq.read_table(path).column("quality_score").to_pylist()
    assert [score >= 0.5 for score in scores] == [True] * 40 + [False] * 40
    told = json.loads(pq.read_schema(path).metadata[LEARNED_FROM.encode()])
    assert list(told) == [str(tmp_path / "any.jsonl"), str(tmp_path / "good.jsonl")]


def test_another_text_in_a_file_that_is_learned_from_makes_another_snapshot(tmp_path: Path) -> None:
    source = _source(_write(tmp_path / "data.jsonl", [_text(n) for n in range(40)]))
    snapshots: list[str | None] = []
    for number in range(3):
        curate = _classified(tmp_path)
        if number == 2:
            _write(tmp_path / "good.jsonl", [_text(n) for n in range(1000, 1151)])
        store = LocalObjects(tmp_path / f"store-{number}")
        result = _refresh(store, tmp_path / "work", source, curate=curate)
        assert result.snapshot is not None
        assert read_snapshot(store, _LAYOUT, result.snapshot).id == result.snapshot
        snapshots.append(result.snapshot)
    assert snapshots[0] == snapshots[1] != snapshots[2]
