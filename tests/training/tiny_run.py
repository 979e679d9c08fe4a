"""A tiny run with two streams, for tests: synthetic snapshots in a local store, and a plan."""

import json
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from storage.layout import Layout
from storage.local_objects import LocalObjects
from storage.manifest import FileDigest, content_hash, digest_bytes, identity_of
from storage.objects import ObjectStore
from storage.snapshots import DomainSlice, SnapshotManifest, mint
from training.checkpoint.index import is_intact, read_manifest
from training.config import (
    Mixture,
    ModelConfig,
    OptimizerConfig,
    Schedule,
    ScheduleConfig,
    Stream,
    TrainPlan,
)
from training.schedule import resolve

SEQ_LEN = 16
VOCAB = 32
LAYOUT = Layout("tiny")
MODEL = ModelConfig(
    vocab_size=VOCAB,
    hidden_size=16,
    num_layers=1,
    num_heads=2,
    num_kv_heads=1,
    intermediate_size=32,
    max_position_embeddings=SEQ_LEN,
)


def mds_shard(rows: np.ndarray) -> bytes:
    """One MDS shard with a fixed-shape column, spelled out independently of the reader."""
    header = b"{}"
    begin = 4 + 4 * (len(rows) + 1) + len(header)
    width = rows.shape[1] * rows.itemsize
    offsets = begin + width * np.arange(len(rows) + 1)
    return (
        np.uint32(len(rows)).tobytes() + offsets.astype("<u4").tobytes() + header + rows.tobytes()
    )


def put_train_shards(
    store: ObjectStore, prefix: str, folder: str, rows: np.ndarray, *, rows_per_shard: int
) -> list[FileDigest]:
    """Store ``rows`` as MDS under ``prefix/folder``; returns digests relative to ``prefix``."""
    bodies: dict[str, bytes] = {}
    shards: list[dict[str, Any]] = []
    for number, start in enumerate(range(0, len(rows), rows_per_shard)):
        part = rows[start : start + rows_per_shard]
        name = f"shard.{number:05d}.mds"
        bodies[name] = mds_shard(part)
        shards.append(
            {
                "column_encodings": [f"ndarray:{rows.dtype.name}:{rows.shape[1]}"],
                "column_names": ["tokens"],
                "column_sizes": [rows.shape[1] * rows.itemsize],
                "compression": None,
                "format": "mds",
                "hashes": [],
                "raw_data": {"basename": name, "bytes": len(bodies[name]), "hashes": {}},
                "samples": len(part),
                "size_limit": None,
                "version": 2,
                "zip_data": None,
            }
        )
    bodies["index.json"] = json.dumps({"version": 2, "shards": shards}).encode()
    for name, body in bodies.items():
        store.put(f"{prefix}/{folder}/{name}", body)
    return [digest_bytes(body, f"{folder}/{name}") for name, body in bodies.items()]


def random_rows(seed: int, count: int) -> np.ndarray:
    """Rows of short documents: token 0 opens each."""
    random = np.random.default_rng(seed)
    rows = random.integers(1, VOCAB, (count, SEQ_LEN + 1)).astype(np.uint16)
    rows[random.random(rows.shape) < 0.1] = 0
    return rows


def mint_tiny(store: ObjectStore, seed: int, count: int) -> str:
    """Mint a snapshot with one domain ``prose`` of ``count`` samples; returns its id."""
    return mint_rows(store, seed, random_rows(seed, count))


def mint_rows(store: ObjectStore, seed: int, rows: np.ndarray, *, rows_per_shard: int = 7) -> str:
    """Mint a snapshot with one domain ``prose`` of these samples; returns its id."""
    identity, count = identity_of(seed), len(rows)
    prefix = LAYOUT.snapshot(identity[:12])
    files = tuple(
        put_train_shards(store, prefix, "prose/train", rows, rows_per_shard=rows_per_shard)
    )
    domain = DomainSlice(
        domain="prose",
        train_samples=count,
        train_tokens=count * SEQ_LEN,
        train_documents=count,
        holdout_documents=0,
        holdout_clusters=0,
        holdout_tokens=0,
        source_names=("made",),
        licences=("none",),
    )
    manifest = SnapshotManifest(
        id=identity[:12],
        lineage=LAYOUT.lineage,
        identity=identity,
        content=content_hash(files),
        role="new",
        minted_at="2026-01-01T00:00:00Z",
        tokenizer="none",
        vocab_size=VOCAB,
        start_id=0,
        end_id=0,
        seq_len=SEQ_LEN,
        token_dtype="uint16",
        domains=(domain,),
        documents_read=count,
        documents_dropped={},
        lines_rejected={},
        files=files,
    )
    mint(store, LAYOUT, manifest)
    return manifest.id


def tiny_plan(root: Path, *, num_steps: int = 12, update: str = "u1") -> tuple[TrainPlan, str]:
    """A plan over two snapshots, 3 parts new and 1 part replay, and the URI of its store."""
    store = LocalObjects(root)
    return plan_in(store, num_steps=num_steps, update=update), store.uri


def plan_in(store: ObjectStore, *, num_steps: int = 12, update: str = "u1") -> TrainPlan:
    """The same plan, its snapshots minted in any store."""
    new, old = mint_tiny(store, 1, 40), mint_tiny(store, 2, 30)
    streams = tuple(
        Stream(
            snapshot=snapshot,
            domain="prose",
            prefix=LAYOUT.shards(snapshot, "prose", "train"),
            parts=parts,
            samples=samples,
            available=available,
            is_replay=samples < available,
        )
        for snapshot, parts, samples, available in ((new, 3, 40, 40), (old, 1, 20, 30))
    )
    return TrainPlan(
        lineage=LAYOUT.lineage,
        update=update,
        checkpoint_prefix=LAYOUT.checkpoints(update),
        initial=None,
        model=MODEL,
        start_id=0,
        end_id=0,
        mixture=Mixture(streams=streams, seed=5),
        schedule=schedule(num_steps * 8 * SEQ_LEN),
        optimizer=OptimizerConfig(),
        seq_len=SEQ_LEN,
        global_batch_samples=8,
        micro_batch_size=3,
        num_steps=num_steps,
        precision="fp32",
        seed=7,
        checkpoint_every_steps=3,
        trunk_step=num_steps,
    )


def tensors_of(store: ObjectStore, checkpoint: str) -> tuple[str, str]:
    """Hashes of weights and moments; every byte was compared with them."""
    assert is_intact(store, checkpoint)
    manifest = read_manifest(store, checkpoint)
    return manifest.weights.sha256, manifest.moments.sha256


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def schedule(total_tokens: int) -> Schedule:
    return resolve(ScheduleConfig(eta_max=0.01), total_tokens=total_tokens)


def with_steps(plan: TrainPlan, num_steps: int) -> TrainPlan:
    """The same plan, ended after ``num_steps``; its schedule is left as it is."""
    return replace(plan, num_steps=num_steps, trunk_step=num_steps)
