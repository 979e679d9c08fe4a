"""A lineage with planted documents, and a search of every byte that knows nothing of ours."""

import gzip
import html
import io
import json
import random
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import zstandard

from storage.head import Head, read_head
from storage.layout import Layout
from storage.lease import Lease
from storage.objects import ObjectStore
from tasks.forget.forget import Done, Site, begin, finish, foresee, index_all
from tasks.near_duplicates.config import NearDuplicateConfig
from tasks.readers import FieldNames
from tasks.refresh import refresh
from tasks.refresh_request import RefreshRequest, RefreshResult, TrainedTokenizer
from tasks.sources import SourceConfig
from tasks.split import HoldoutConfig
from training.tokenizer import Tokenizer, fetch_tokenizer

LAYOUT = Layout("demo")
SEQ_LEN = 32


def words(seed: int, *, num_words: int = 80, changed: int = 0) -> str:
    """Random words; the first ``changed`` of them others than without."""
    rng, other = random.Random(seed), random.Random(seed + 10**9)
    kept = [f"w{rng.getrandbits(16)}" for _ in range(num_words)]
    return " ".join([*(f"x{other.getrandbits(16)}" for _ in range(changed)), *kept[changed:]])


class Scene:
    """A lineage in a store, whose source is a folder."""

    def __init__(self, store: ObjectStore, folder: Path, *, near: bool = True) -> None:
        self.store, self.folder = store, folder
        self.near = NearDuplicateConfig() if near else None
        self.data, self.work = folder / "data", folder / "work"
        self.work.mkdir(exist_ok=True)
        self.changes: dict[str, Any] = {}

    def write(self, name: str, texts: Mapping[str, str], **more: Mapping[str, str]) -> None:
        self.data.mkdir(exist_ok=True)
        rows = (
            {"id": one, "text": text} | {field: by_id.get(one, "") for field, by_id in more.items()}
            for one, text in texts.items()
        )
        (self.data / name).write_text("".join(f"{json.dumps(row)}\n" for row in rows))

    def refresh(self) -> RefreshResult:
        source = SourceConfig(
            name="web",
            uri=str(self.data),
            domain="web",
            licence="CC0-1.0",
            fields=FieldNames(id="id", synthetic_of="of"),
        )
        request = RefreshRequest(
            sources=(source,),
            tokenizer=TrainedTokenizer(290),
            seq_len=SEQ_LEN,
            holdout=HoldoutConfig(min_clusters=3),
            near_duplicates=self.near,
        )
        request = replace(request, **self.changes)
        return refresh(self.store, LAYOUT, request, by="test", work_dir=self.work)

    @property
    def head(self) -> Head:
        head = read_head(self.store, LAYOUT)
        assert head is not None
        return head

    @property
    def site(self) -> Site:
        return Site(self.store, LAYOUT, self.near, self.work)

    @property
    def tokenizer(self) -> Tokenizer:
        assert self.head.tokenizer is not None
        return fetch_tokenizer(self.store, self.head.tokenizer, self.folder / "tokenizer")

    def needles(self, texts: Mapping[str, str], *names: str) -> list[bytes]:
        """``spellings`` of some of ``texts``."""
        return [piece for name in names for piece in spellings(texts[name], self.tokenizer)]

    def forget(self, *ids: str, texts: tuple[str, ...] = ()) -> Done:
        with Lease.acquire(self.store, LAYOUT, "test") as lease:
            index_all(self.site)
            forecast = foresee(self.site, self.head, ids=ids, texts=texts)
            takedown = begin(self.site, lease, forecast, by="test")
            return finish(self.site, lease, takedown, by="test")

    def table(self, snapshot: str | None) -> list[dict[str, Any]]:
        """The table of documents of a snapshot."""
        from storage.revised import file_named
        from storage.snapshots import DOCUMENTS, read_snapshot

        assert snapshot is not None
        manifest = read_snapshot(self.store, LAYOUT, snapshot)
        file = file_named(manifest.files, DOCUMENTS, "the snapshot")
        body = self.store.get(f"{LAYOUT.snapshot(snapshot)}/{file.name}")
        return pq.read_table(io.BytesIO(body)).to_pylist()

    def split_of(self, snapshot: str | None, split: str) -> list[str]:
        """Names of the documents on one side, without their source."""
        rows = (row for row in self.table(snapshot) if row["split"] == split)
        return [row["document"].removeprefix("web/") for row in rows]


def spellings(text: str, tokenizer: Tokenizer) -> Iterator[bytes]:
    """Pieces of a text as a store may hold them: any 60 characters or 12 tokens in a row."""
    for start in range(0, max(1, len(text) - 60), 60):
        piece = text[start : start + 60]
        yield piece.encode()
        yield json.dumps(piece)[1:-1].encode()
        yield html.escape(piece).encode()
    # Cut as a whole: a piece alone would be cut into other tokens at its ends.
    tokens = tokenizer.encode_batch([text])[0]
    for start in range(0, max(1, len(tokens) - 12), 12):
        for width in ("<u2", "<u4"):
            yield np.asarray(tokens[start : start + 12]).astype(width).tobytes()


def files_with(root: Path, needles: list[bytes]) -> list[Path]:
    """Files below a folder that hold one of ``needles``, also packed."""
    found: list[Path] = []
    for path in sorted(root.rglob("*")):
        if path.is_file():
            bodies = [path.read_bytes()]
            if path.name.endswith(".zst"):
                stream = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(bodies[0]))
                bodies.append(stream.read())
            if path.name.endswith(".gz"):
                bodies.append(gzip.decompress(bodies[0]))
            if path.name.endswith(".parquet"):
                bodies.append(str(pq.read_table(path).to_pydict()).encode())
            if path.name.endswith(".db"):
                with sqlite3.connect(path) as database:
                    bodies.append("\n".join(database.iterdump()).encode())
            if any(needle in body for body in bodies for needle in needles):
                found.append(path)
    return found
