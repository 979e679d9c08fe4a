"""Refreshes of a few short documents of one source, into a store of the test's own."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq

from storage.head import Head, read_head
from storage.layout import Layout
from storage.objects import ObjectStore
from storage.snapshots import SnapshotManifest, read_snapshot
from tasks.readers import FieldNames
from tasks.refresh import refresh
from tasks.refresh_request import (
    RefreshRequest,
    RefreshResult,
    TrainedTokenizer,
)
from tasks.sources import SourceConfig
from tasks.split import HoldoutConfig

LAYOUT = Layout("demo")
WORDS = ["stone", "river", "lamp", "carpet", "window", "harbour", "été", "north", "seven", "\n"]


def text_of(seed: int) -> str:
    return f"{seed}: " + " ".join(random.Random(seed).choices(WORDS, k=30))


def write_documents(path: Path, seeds: range, **extra: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps({"text": text_of(n), "id": f"d{n}", **extra}) for n in seeds)
    path.write_text("".join(f"{line}\n" for line in lines))


def source_in(directory: Path, name: str = "web", **changes: object) -> SourceConfig:
    source = SourceConfig(
        name=name, uri=str(directory), domain=name, licence="CC0-1.0", fields=FieldNames(id="id")
    )
    return replace(source, **changes)  # pyright: ignore[reportArgumentType]  any field


def request_for(*sources: SourceConfig, **changes: object) -> RefreshRequest:
    request = RefreshRequest(
        sources=sources,
        tokenizer=TrainedTokenizer(290),
        seq_len=32,
        holdout=HoldoutConfig(min_clusters=3),
    )
    return replace(request, **changes)  # pyright: ignore[reportArgumentType]  any field


def refresh_once(
    store: ObjectStore, request: RefreshRequest, work_dir: Path, lease_token: int | None = None
) -> RefreshResult:
    work_dir.mkdir(exist_ok=True)
    return refresh(store, LAYOUT, request, by="test", work_dir=work_dir, lease_token=lease_token)


def head_of(store: ObjectStore) -> Head:
    head = read_head(store, LAYOUT)
    assert head is not None
    return head


def comparable(head: Head) -> Head:
    return replace(head, written_at="")


def manifest_of(store: ObjectStore, result: RefreshResult) -> SnapshotManifest:
    assert result.snapshot is not None, result.reason
    return read_snapshot(store, LAYOUT, result.snapshot)


def table_of(store: ObjectStore, snapshot: str) -> list[dict[str, object]]:
    path = store.local_path(f"{LAYOUT.snapshot(snapshot)}/documents.parquet")
    return pq.read_table(path).to_pylist()
