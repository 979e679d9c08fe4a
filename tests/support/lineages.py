"""Small lineages for tests: heads, snapshots without shards, a tiny model with its tokenizer."""

from dataclasses import replace
from pathlib import Path
from typing import cast

from storage.head import (
    Head,
    SnapshotRole,
    VersionRecord,
    commit_change,
    next_head,
    read_head,
)
from storage.layout import Layout
from storage.manifest import content_hash
from storage.objects import ObjectStore
from storage.snapshots import DomainSlice, SnapshotManifest, mint
from storage.transitions import with_snapshot
from tasks.import_base import import_base
from tasks.judge.verdict import CheckConfig, DomainRow, Health, Outcome, VerdictReport
from tasks.publish import replay_extender
from training.config import ModelConfig

LAYOUT = Layout("demo")
SEQ_LEN = 16
TEXTS = [f"river {n} runs past hill {n * 7 % 13} and into lake {n * 5 % 11}" for n in range(60)]
MODEL = ModelConfig(
    vocab_size=320,
    hidden_size=32,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    intermediate_size=64,
    max_position_embeddings=48,
)


def start_lineage(store: ObjectStore, *, tokenizer: str | None = None) -> Head:
    """Head 1, nothing in it."""
    return commit_change(
        store,
        LAYOUT,
        lambda head: (
            head or next_head(None, action="init", by="test", lineage="demo", tokenizer=tokenizer)
        ),
    )


def newest(store: ObjectStore) -> Head:
    head = read_head(store, LAYOUT)
    assert head is not None
    return head


def add_snapshot(
    store: ObjectStore,
    number: int,
    *,
    tokenizer: str | None = None,
    role: SnapshotRole = "new",
    train_samples: int = 10,
) -> str:
    """Mint a snapshot that has no shards and commit it; returns its id.

    It is pending, or learned when it is a reference.
    """
    identity = f"{number:064x}"[::-1]
    manifest = SnapshotManifest(
        id=identity[:12],
        lineage="demo",
        identity=identity,
        content=content_hash(()),
        role=role,
        minted_at="2026-01-01T00:00:00+00:00",
        tokenizer="tokenizers/t",
        vocab_size=300,
        start_id=0,
        end_id=0,
        seq_len=SEQ_LEN,
        token_dtype="uint16",
        domains=(
            DomainSlice(
                domain="news",
                train_samples=train_samples,
                train_tokens=train_samples * SEQ_LEN,
                train_documents=5,
                holdout_documents=2,
                holdout_clusters=2,
                holdout_tokens=30,
                source_names=("wire",),
                licences=("CC0-1.0",),
            ),
        ),
        documents_read=7,
        documents_dropped={},
        lines_rejected={},
        files=(),
    )
    mint(store, LAYOUT, manifest)
    commit_change(
        store,
        LAYOUT,
        lambda head: with_snapshot(
            head or start_lineage(store),
            manifest.id,
            marks=f"marks/{number}",
            suite=f"suite{number}",
            tokenizer=tokenizer or (head.tokenizer if head else None),
            by="test",
            role=role,
        ),
    )
    return manifest.id


def candidate(head: Head, verdict: str, **changes: object) -> VersionRecord:
    """The record of an update that trained on everything pending."""
    number = len(head.versions) + 1
    update = f"{number:016x}"[::-1]
    record = VersionRecord(
        version=f"{number}-{update[:8]}",
        update=update,
        verdict="PASS",
        decision="awaiting",
        parent=head.champion,
        trunk=f"{LAYOUT.checkpoints(update)}/step-8",
        snapshots=tuple(s.id for s in head.snapshots if s.state == "pending"),
        replay=head.replay,
        on_head=0,
    )
    return replace(record, verdict=verdict, **changes)  # pyright: ignore[reportArgumentType]


def report_of(record: VersionRecord, **changes: object) -> VerdictReport:
    row = DomainRow(
        domain="news",
        role="new",
        test="gain",
        against=record.parent or "unigram",
        documents=2,
        clusters=2,
        targets=30,
        candidate_nats_per_token=2.5,
        champion_nats_per_token=3.0,
        candidate_bits_per_byte=1.0,
        champion_bits_per_byte=1.2,
        difference=-0.5,
        upper_bound=-0.25,
        margin=-0.02,
        passed=True,
    )
    report = VerdictReport(
        verdict=cast("Outcome", record.verdict),
        reason="better on the news by 0.5 nats per token",
        reasons=(),
        candidate=record.version,
        champion=record.parent,
        rows=(row,),
        health=Health(finite=True),
        config=CheckConfig(),
        resamples=100,
    )
    return replace(report, **changes)  # pyright: ignore[reportArgumentType]


def hub_directory(directory: Path, *, seed: int = 3) -> Path:
    """A Hugging Face directory with a tiny random model and its tokenizer."""
    from training.decoder.model import Decoder
    from training.hub.directory import write_model
    from training.tokenizer_training import train_tokenizer

    tokenizer = train_tokenizer(TEXTS, directory, vocab_size=300)
    write_model(
        directory,
        MODEL,
        Decoder(MODEL, seed=seed).state_dict(),
        start_id=tokenizer.start_id,
        end_id=tokenizer.end_id,
    )
    return directory


def import_champion(store: ObjectStore, directory: Path, work_dir: Path) -> Head:
    """The model of a directory as version 1; returns the head that made it champion."""
    return import_base(
        store,
        LAYOUT,
        directory,
        references=(),
        extend_replay=replay_extender(store, LAYOUT, budget_tokens=1600, seq_len=SEQ_LEN),
        by="test",
        reason="our start",
        work_dir=work_dir,
    )
