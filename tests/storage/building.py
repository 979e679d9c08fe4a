"""Small lineages for the tests of ``storage``."""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq

from storage.head import Head, VersionRecord, next_head
from storage.layout import Layout
from storage.manifest import FileDigest, content_hash, digest_bytes, identity_of
from storage.objects import ObjectStore
from storage.snapshots import DOCUMENTS, DomainSlice, SnapshotManifest

LAYOUT = Layout("demo")


def key16(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()[:16]


def documents_parquet(rows: Sequence[tuple[str, str, str]]) -> bytes:
    """``rows`` are (content, cluster, split)."""
    table = pa.table(
        {
            "document": [content for content, _, _ in rows],
            "content": pa.array([key16(content) for content, _, _ in rows], pa.binary(16)),
            "cluster_key": pa.array([key16(cluster) for _, cluster, _ in rows], pa.binary(16)),
            "split": [split for _, _, split in rows],
        }
    )
    target = io.BytesIO()
    pq.write_table(table, target)
    return target.getvalue()


def snapshot_files(
    tag: str, domains: Sequence[str], rows: Sequence[tuple[str, str, str]] = ()
) -> dict[str, bytes]:
    files = {DOCUMENTS: documents_parquet(rows)}
    for domain in domains:
        files[f"{domain}/train/shard.00000.mds"] = f"train {tag} {domain}".encode()
        files[f"{domain}/holdout/shard.00000.mds"] = f"holdout {tag} {domain}".encode()
    return files


def snapshot_manifest(
    tag: str, files: dict[str, bytes], *, holdout_documents: int = 2
) -> SnapshotManifest:
    digests: list[FileDigest] = [digest_bytes(body, name) for name, body in files.items()]
    domains = sorted({name.split("/")[0] for name in files if "/" in name})
    slices = tuple(
        DomainSlice(
            domain=domain,
            train_samples=10,
            train_tokens=80,
            train_documents=4,
            holdout_documents=holdout_documents,
            holdout_clusters=holdout_documents,
            holdout_tokens=20,
            source_names=("src",),
            licences=("cc0",),
        )
        for domain in domains
    )
    identity = identity_of({"tag": tag})
    return SnapshotManifest(
        id=identity[:12],
        lineage=LAYOUT.lineage,
        identity=identity,
        content=content_hash(digests),
        role="new",
        minted_at="2026-01-01T00:00:00+00:00",
        tokenizer=LAYOUT.tokenizer("t1"),
        vocab_size=100,
        start_id=0,
        end_id=0,
        seq_len=8,
        token_dtype="uint16",
        domains=slices,
        documents_read=8,
        documents_dropped={"duplicate": 1},
        lines_rejected={},
        files=tuple(digests),
    )


def put_files(store: ObjectStore, prefix: str, files: dict[str, bytes]) -> None:
    for name, body in files.items():
        store.put(f"{prefix}/{name}", body)


def first_head() -> Head:
    head = next_head(None, lineage="demo", action="init", by="test", written_at="then")
    return replace(head, tokenizer=LAYOUT.tokenizer("t1"))


def version_record(
    number: int,
    verdict: str,
    *,
    snapshots: Sequence[str],
    parent: str | None,
    update: str | None = None,
) -> VersionRecord:
    update = update or f"{number:08d}cafe"
    return VersionRecord(
        version=f"{number}-{update[:8]}",
        update=update,
        verdict=verdict,  # pyright: ignore[reportArgumentType]  the tests spell it right
        decision="awaiting",
        parent=parent,
        trunk=f"{LAYOUT.checkpoints(update)}/step-9",
        snapshots=tuple(snapshots),
        replay=None,
        on_head=0,
    )
