"""Paired scores for judging the judge: small models of the engine, text that is already installed.

A model learns prose. Three others are compared with it on held-out prose and code: one that went on
with code and half as much prose again, one that went on with code alone, and one whose weights were
moved a little at random. Tokens are bytes. Whole modules are held out, a module is a cluster.
"""

import gzip
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from tasks.harvest import HarvestedDocument, harvest_part
from tests.benchmarks.judge_trials import Clusters
from tests.benchmarks.workload import GLOBAL_BATCH_SAMPLES, SEQ_LEN, make_plan
from training.config import ModelConfig, ScheduleConfig
from training.data.batches import RankBatch
from training.data.holdout import HoldoutDocument
from training.decoder.model import Decoder
from training.evaluate import score_documents
from training.loop import train
from training.loss import StreamLoss
from training.optim import build_optimizer
from training.schedule import resolve

START_ID, END_ID, BYTES_FROM = 0, 1, 2
MODEL = ModelConfig(
    vocab_size=258,
    hidden_size=96,
    num_layers=2,
    num_heads=4,
    num_kv_heads=4,
    intermediate_size=256,
    max_position_embeddings=SEQ_LEN,
)
"""0.25 million parameters."""
DOCUMENT_BYTES = 256
"""Only so much of a held-out document is scored, so that many clusters cost little."""
PART_CHARS = 3_000_000
JITTER = 0.001
"""Of the standard deviation of each weight matrix: what moves the faithful model."""

_Tokens = npt.NDArray[np.int64]


def paired_scores(
    folder: Path, *, parts: int, first_steps: int, steps: int
) -> dict[str, dict[str, Clusters]]:
    """Model -> domain -> its scores beside the first model's, kept in ``folder`` for the next run.

    Models are ``mixed``, ``forgetful`` and ``faithful``; domains ``prose`` and ``code``.
    """
    kept = folder / f"scores-{parts}-{first_steps}-{steps}.json"
    if not kept.exists():
        found = _train_and_score(folder, parts, first_steps, steps)
        kept.write_text(
            json.dumps(
                {
                    model: {
                        domain: [column.tolist() for column in columns]
                        for domain, columns in found[model].items()
                    }
                    for model in found
                }
            )
        )
    return {
        model: {domain: Clusters(*map(np.array, columns)) for domain, columns in domains.items()}
        for model, domains in json.loads(kept.read_text()).items()
    }


def _train_and_score(
    folder: Path, parts: int, first_steps: int, steps: int
) -> dict[str, dict[str, tuple[npt.NDArray[np.float64], ...]]]:
    prose, code = _documents(folder, "prose", parts), _documents(folder, "code", 1)
    rows = {"prose": _rows(prose), "code": _rows(code)}
    held_out = {"prose": _held_out(prose), "code": _held_out(code)}
    first = Decoder(MODEL, seed=0)
    _learn(first, rows["prose"], first_steps, seed=0)
    both = np.concatenate([rows["code"], rows["prose"][: len(rows["code"]) // 2]])
    others = {name: Decoder(MODEL, seed=0) for name in ("mixed", "forgetful", "faithful")}
    for model in others.values():
        model.load_state_dict(first.state_dict())
    _learn(others["mixed"], both, steps, seed=1)
    _learn(others["forgetful"], rows["code"], steps, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in others["faithful"].parameters():
            noise = torch.randn(weight.shape, generator=generator)
            weight += JITTER * (weight.std() if weight.dim() > 1 else 1.0) * noise
    before = {domain: _scores(first, held_out[domain]) for domain in held_out}
    return {
        name: {
            domain: _by_cluster(held_out[domain], before[domain], _scores(model, held_out[domain]))
            for domain in held_out
        }
        for name, model in others.items()
    }


def _documents(folder: Path, domain: str, parts: int) -> list[HarvestedDocument]:
    documents: list[HarvestedDocument] = []
    for part in range(1, parts + 1):
        path = harvest_part(domain, part, folder / domain, part_chars=PART_CHARS)
        if path is not None:
            with gzip.open(path) as lines:
                documents += [json.loads(line) for line in lines]
    return documents


def _is_held_out(document: HarvestedDocument) -> bool:
    """Three modules in four, by a hash of their names: judging needs clusters, not learning."""
    # Not the hash of the name alone, by which the harvest deals modules to parts.
    return hashlib.sha256(f"held out: {document['module']}".encode()).digest()[0] >= 64


def _tokens(text: bytes) -> _Tokens:
    middle = np.frombuffer(text, dtype=np.uint8).astype(np.int64) + BYTES_FROM
    return np.concatenate([[START_ID], middle, [END_ID]])


def _rows(documents: list[HarvestedDocument]) -> _Tokens:
    """``int64[rows, T + 1]`` of what is not held out."""
    texts = [row["text"].encode() for row in documents if not _is_held_out(row)]
    stream = np.concatenate([_tokens(text) for text in texts])
    count = (len(stream) - 1) // SEQ_LEN
    return np.stack([stream[row * SEQ_LEN : (row + 1) * SEQ_LEN + 1] for row in range(count)])


def _held_out(documents: list[HarvestedDocument]) -> list[HoldoutDocument]:
    found: list[HoldoutDocument] = []
    for row in filter(_is_held_out, documents):
        text = row["text"].encode()[:DOCUMENT_BYTES]
        found.append(HoldoutDocument(row["id"], row["module"], _tokens(text), len(text)))
    return found


def _learn(model: Decoder, rows: _Tokens, num_steps: int, *, seed: int) -> None:
    """Train for ``num_steps`` global batches, drawn at random."""
    random = np.random.default_rng(seed)
    tokens = num_steps * GLOBAL_BATCH_SAMPLES * SEQ_LEN
    plan = replace(
        make_plan("none", len(rows), num_steps=num_steps),
        model=MODEL,
        start_id=START_ID,
        end_id=END_ID,
        schedule=resolve(ScheduleConfig(eta_max=4e-3), total_tokens=tokens),
    )
    loss = StreamLoss(model, start_id=START_ID, num_streams=1)
    batches = (
        RankBatch(
            step=step,
            tokens=(torch.from_numpy(rows[random.integers(len(rows), size=GLOBAL_BATCH_SAMPLES)]),),
            streams=(torch.zeros(GLOBAL_BATCH_SAMPLES, dtype=torch.int64),),
            samples=(),
            checksum=0,
        )
        for step in range(num_steps)
    )
    train(loss, build_optimizer(loss, plan.optimizer), batches, plan, lambda _: None)


def _scores(model: Decoder, documents: list[HoldoutDocument]) -> npt.NDArray[np.float64]:
    scores = score_documents(
        model, documents, start_id=START_ID, end_id=END_ID, seq_len=SEQ_LEN, precision="bf16"
    )
    return np.array([score.nats for score in scores])


def _by_cluster(
    documents: list[HoldoutDocument],
    before: npt.NDArray[np.float64],
    after: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.float64], ...]:
    """Nats of the first model, nats above it, targets: one value a cluster."""
    names, cluster = np.unique([row.cluster for row in documents], return_inverse=True)
    targets = np.array([len(row.tokens) - 1 for row in documents], dtype=np.float64)
    columns = (before, after - before, targets)
    sums = (np.bincount(cluster, column, minlength=len(names)) for column in columns)
    return tuple(column.astype(np.float64) for column in sums)
