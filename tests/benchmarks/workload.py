"""The fixed workload of the throughput benchmarks: a model, made-up text and a plan."""

from collections.abc import Sequence

import numpy as np

from storage.layout import Layout
from storage.manifest import FileDigest, content_hash, identity_of
from storage.objects import ObjectStore
from storage.snapshots import DomainSlice, SnapshotManifest, mint
from tests.training.tiny_run import put_train_shards
from training.config import Mixture, ModelConfig, OptimizerConfig, ScheduleConfig, Stream, TrainPlan
from training.schedule import resolve

SEQ_LEN = 256
VOCAB = 8192
GLOBAL_BATCH_SAMPLES = 16
MICRO_BATCH_SIZE = 8
START_ID = 0
MODEL = ModelConfig(
    vocab_size=VOCAB,
    hidden_size=256,
    num_layers=4,
    num_heads=4,
    num_kv_heads=4,
    intermediate_size=688,
    max_position_embeddings=SEQ_LEN,
)
"""5.3 million parameters."""
CHECKPOINT_MODEL = ModelConfig(
    vocab_size=32_768,
    hidden_size=512,
    num_layers=12,
    num_heads=8,
    num_kv_heads=8,
    intermediate_size=1408,
)
"""54 million parameters, 650 MB of state: what checkpoints and restarts are measured on."""

_LAYOUT = Layout("throughput")
_SUCCESSORS = 8
_ROWS_PER_SHARD = 512


def sparse_bigram_rows(num_steps: int) -> np.ndarray:
    """``uint16[rows, T + 1]`` for ``num_steps`` steps: every token has 8 likely successors.

    Each row is one document, so that who masks the attention between documents and who does not
    learn the same. The engine makes its masks all the same.
    """
    random = np.random.default_rng(0)
    successors = random.integers(1, VOCAB, (VOCAB, _SUCCESSORS))
    rows = num_steps * GLOBAL_BATCH_SAMPLES
    tokens = np.empty((rows, SEQ_LEN + 1), np.uint16)
    tokens[:, 0] = START_ID
    # Skewed, so that there is something to learn beyond which tokens may follow.
    choices = random.geometric(0.5, tokens.shape).clip(max=_SUCCESSORS) - 1
    for position in range(1, SEQ_LEN + 1):
        tokens[:, position] = successors[tokens[:, position - 1], choices[:, position]]
    return tokens


def store_rows(store: ObjectStore, rows: np.ndarray) -> tuple[str, int]:
    """Mint a snapshot of ``rows``; returns its id and the number of rows."""
    identity = identity_of("throughput")
    prefix = _LAYOUT.snapshot(identity[:12])
    files = put_train_shards(store, prefix, "made/train", rows, rows_per_shard=_ROWS_PER_SHARD)
    mint(store, _LAYOUT, _manifest(identity, files, len(rows)))
    return identity[:12], len(rows)


def make_plan(snapshot: str, num_rows: int, *, num_steps: int) -> TrainPlan:
    """One pass over the rows."""
    stream = Stream(
        snapshot=snapshot,
        domain="made",
        prefix=_LAYOUT.shards(snapshot, "made", "train"),
        parts=1,
        samples=num_rows,
        available=num_rows,
        is_replay=False,
    )
    tokens = num_steps * GLOBAL_BATCH_SAMPLES * SEQ_LEN
    return TrainPlan(
        lineage=_LAYOUT.lineage,
        update="u1",
        checkpoint_prefix=_LAYOUT.checkpoints("u1"),
        initial=None,
        model=MODEL,
        start_id=START_ID,
        end_id=START_ID,
        mixture=Mixture(streams=(stream,), seed=0),
        schedule=resolve(ScheduleConfig(eta_max=1e-3), total_tokens=tokens),
        optimizer=OptimizerConfig(),
        seq_len=SEQ_LEN,
        global_batch_samples=GLOBAL_BATCH_SAMPLES,
        micro_batch_size=MICRO_BATCH_SIZE,
        num_steps=num_steps,
        precision="bf16",
        seed=0,
        checkpoint_every_steps=num_steps,
        trunk_step=num_steps,
    )


def _manifest(identity: str, files: Sequence[FileDigest], num_rows: int) -> SnapshotManifest:
    domain = DomainSlice(
        domain="made",
        train_samples=num_rows,
        train_tokens=num_rows * SEQ_LEN,
        train_documents=num_rows,
        holdout_documents=0,
        holdout_clusters=0,
        holdout_tokens=0,
        source_names=("made",),
        licences=("none",),
    )
    return SnapshotManifest(
        id=identity[:12],
        lineage=_LAYOUT.lineage,
        identity=identity,
        content=content_hash(files),
        role="new",
        minted_at="2026-01-01T00:00:00Z",
        tokenizer="none",
        vocab_size=VOCAB,
        start_id=START_ID,
        end_id=START_ID,
        seq_len=SEQ_LEN,
        token_dtype="uint16",
        domains=(domain,),
        documents_read=num_rows,
        documents_dropped={},
        lines_rejected={},
        files=tuple(files),
    )
