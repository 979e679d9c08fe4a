"""A lineage of which every night holds out another slice of every domain: no text, only sizes."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from storage.head import Head, SnapshotRecord, next_head
from storage.layout import Layout
from storage.local_objects import LocalObjects
from storage.manifest import FileDigest, content_hash
from storage.snapshots import DomainSlice, SnapshotManifest, mint
from storage.suite import SuiteManifest, suite_of
from tasks.judge.verdict import CheckConfig
from tasks.scoring.panel import Panel, panel_of
from training.data.holdout import HoldoutDocument
from training.shard_writer import write_holdout_shards

LAYOUT = Layout("demo")


class Nights:
    """Every night a snapshot.

    Args:
        path: Empty folder for the store.
        domains: In every snapshot.
        clusters: Held out of a domain a night; each is one document.
        tokens: Fewest and most of a cluster, all sizes between them being as likely.
    """

    def __init__(
        self,
        path: Path,
        *,
        domains: tuple[str, ...] = ("code", "news"),
        clusters: int = 120,
        tokens: tuple[int, int] = (20, 120),
    ) -> None:
        self.path, self.domains, self.clusters, self.tokens = path, domains, clusters, tokens
        self.store = LocalObjects(path / "store")
        self.suite: SuiteManifest | None = None
        self.head: Head = next_head(None, action="init", by="test", lineage="demo")

    def refresh(self) -> None:
        """Mint tonight's snapshot, and learn those before."""
        night = len(self.head.snapshots) + 1
        identity = f"{night:064x}"[::-1]
        rng = np.random.default_rng(night)
        files: list[FileDigest] = []
        slices: list[DomainSlice] = []
        for domain in self.domains:
            rows = [
                HoldoutDocument(
                    document=f"{night}-{domain}-{n}",
                    cluster=f"{night}-{domain}-{n}",
                    tokens=np.zeros(rng.integers(*self.tokens), np.uint16),
                    text_bytes=100,
                )
                for n in range(self.clusters)
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

    def panel(self, config: CheckConfig, *, keep: bool = True) -> Panel:
        """What a candidate of tonight would be judged on."""
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
