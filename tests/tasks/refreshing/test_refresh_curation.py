"""Refreshes whose rules learn from files, cap shares, or meet edited held-out documents."""

import json
import random
from dataclasses import replace
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
from tasks.near_duplicates.config import NearDuplicateConfig
from tasks.readers import FieldNames
from tasks.refresh import refresh
from tasks.refresh_request import RefreshRequest, RefreshResult, TrainedTokenizer
from tasks.shares import ShareCaps
from tasks.sources import SourceConfig
from tasks.split import HoldoutConfig

_LAYOUT = Layout("demo")
_NO_RULES = CurateConfig()
_MADE = FieldNames(synthetic_of="of")
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
    store: LocalObjects,
    work: Path,
    *sources: SourceConfig,
    curate: CurateConfig = _NO_RULES,
    near_duplicates: NearDuplicateConfig | None = None,
) -> RefreshResult:
    work.mkdir(exist_ok=True)
    request = RefreshRequest(
        sources=sources,
        tokenizer=TrainedTokenizer(290),
        seq_len=32,
        holdout=HoldoutConfig(min_clusters=3),
        curate=curate,
        near_duplicates=near_duplicates,
    )
    return refresh(store, _LAYOUT, request, by="test", work_dir=work)


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


def _reasons(store: LocalObjects, result: RefreshResult) -> dict[str, str]:
    """Why each document was dropped, by its id."""
    assert result.snapshot is not None, result.reason
    path = store.local_path(f"{_LAYOUT.snapshot(result.snapshot)}/documents.parquet")
    columns = pq.read_table(path, columns=["document", "reason"]).to_pydict()
    return dict(zip(columns["document"], columns["reason"], strict=True))


@pytest.mark.parametrize("by_document", [False, True], ids=["by source", "by document"])
def test_a_synthetic_document_never_takes_the_place_of_a_real_one(
    store: LocalObjects, tmp_path: Path, by_document: bool
) -> None:
    real = [_text(n) for n in range(40)]
    made = [*real[:5], f"{real[5]} almost", *(_text(n) for n in range(100, 110))]
    if by_document:
        lines = [*({"text": t, "of": "a model"} for t in made), *({"text": t} for t in real)]
        path = tmp_path / "both.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        sources = [SourceConfig(name="both", uri=str(path), domain="web", fields=_MADE)]
        dropped = [f"both/both.jsonl#{number}" for number in range(1, 7)]
    else:
        # Its name comes first.
        synthetic = _source(_write(tmp_path / "made.jsonl", made), "a", "web")
        sources = [
            replace(synthetic, provenance="synthetic"),
            _source(_write(tmp_path / "real.jsonl", real), "b", "web"),
        ]
        dropped = [f"a/made.jsonl#{number}" for number in range(1, 7)]
    near = NearDuplicateConfig(ngram=3)
    result = _refresh(store, tmp_path / "work", *sources, near_duplicates=near)
    reasons = _reasons(store, result)
    assert {name: reason for name, reason in reasons.items() if reason} == {
        **dict.fromkeys(dropped[:5], "duplicate_in_batch"),
        dropped[5]: "near_duplicate_in_batch",
    }


def test_beyond_a_cap_documents_are_dropped_before_the_split_and_counted(
    store: LocalObjects, tmp_path: Path
) -> None:
    real = _source(_write(tmp_path / "real.jsonl", [_text(n) for n in range(40)]), "real", "web")
    made = _source(_write(tmp_path / "made.jsonl", [_text(n) for n in range(50, 90)]), "a", "web")
    made = replace(made, provenance="synthetic")
    curate = CurateConfig(shares={"web": ShareCaps(synthetic=0.2)})
    result = _refresh(store, tmp_path / "work", real, made, curate=curate)
    dropped = result.documents_dropped["synthetic_share"]
    # The texts are about as long, so some 10 of 50 are left.
    assert 28 <= dropped <= 32
    assert result.documents_dropped == {"synthetic_share": dropped}
    assert result.train_documents + result.holdout_documents == 80 - dropped
    reasons = _reasons(store, result)
    assert {name.partition("/")[0] for name, reason in reasons.items() if reason} == {"a"}


def test_what_is_beyond_a_cap_is_not_read_again(store: LocalObjects, tmp_path: Path) -> None:
    real = _source(_write(tmp_path / "real.jsonl", [_text(n) for n in range(40)]), "real", "web")
    made = _source(_write(tmp_path / "made.jsonl", [_text(n) for n in range(50, 90)]), "a", "web")
    curate = CurateConfig(shares={"*": ShareCaps(synthetic=0)})
    made = replace(made, provenance="synthetic")
    first = _refresh(store, tmp_path / "work", real, made, curate=curate)
    assert first.documents_dropped == {"synthetic_share": 40}
    again = _refresh(store, tmp_path / "work", real, made, curate=curate)
    assert (again.files_new, again.snapshot) == (0, None)


def test_caps_are_on_training_text_and_leave_the_holdout_alone(
    store: LocalObjects, tmp_path: Path
) -> None:
    path = tmp_path / "made.jsonl"
    fields = FieldNames(id="id")
    source = SourceConfig(
        name="made", uri=str(path), domain="web", fields=fields, provenance="synthetic"
    )

    def deliver(suffix: str) -> None:
        rows = ({"id": f"d{n}", "text": _text(n) + suffix} for n in range(40))
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    deliver("")
    first = _refresh(store, tmp_path / "work", source)
    deliver(" edited")
    real = _source(_write(tmp_path / "real.jsonl", [_text(n) for n in range(100, 140)]), "web")
    none = CurateConfig(shares={"web": ShareCaps(synthetic=0)})
    second = _refresh(store, tmp_path / "work", source, real, curate=none)
    assert second.documents_dropped == {"synthetic_share": 40 - first.holdout_documents}
    # Those of before are all that the holdout wants, so every real one is trained on.
    assert (second.train_documents, second.holdout_documents) == (40, first.holdout_documents)
