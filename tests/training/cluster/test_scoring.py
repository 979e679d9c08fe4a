"""Scoring on Ray: the bits of one process, whatever the number of workers, and losses survived."""

import logging
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from storage.errors import NotFoundError
from storage.models import publish_model, upload_files
from storage.objects import open_store
from training.cluster.pool import Pool
from training.cluster.scoring import ScoringBatch, ScoringJob, score_on_ray
from training.config import ModelConfig
from training.data.holdout import HoldoutDocument
from training.data.holdout_folder import HoldoutFolder
from training.decoder.model import Decoder
from training.errors import TrainingError
from training.hub.directory import write_model
from training.score_units import score_units
from training.shard_writer import write_holdout_shards

# Importing ray.train reads and writes deprecated fields of ray.data.
pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings(r"ignore:.*\bdeprecated\b")]

MODEL = ModelConfig(
    vocab_size=64,
    hidden_size=16,
    num_layers=1,
    num_heads=2,
    num_kv_heads=1,
    intermediate_size=32,
)
PREFIX = "lineages/demo/models/1-a"
UNITS = tuple((0, tuple(range(4 * n, 4 * n + 4))) for n in range(6))
POOL = Pool(what="scoring", num_workers=2, address=None, max_failures=1, wait_seconds=60)
Nats = tuple[float, ...]


def documents() -> list[HoldoutDocument]:
    rng = np.random.default_rng(3)
    return [
        HoldoutDocument(
            document=f"d{n}",
            cluster=f"c{n}",
            tokens=np.array([0, *rng.integers(2, 64, 5 + 9 * n % 70), 1], np.uint16),
            text_bytes=30,
        )
        for n in range(24)
    ]


@pytest.fixture
def job(tmp_path: Path) -> ScoringJob:
    """One model, one holdout, six units in six batches."""
    torch.set_num_threads(1)
    store = open_store((tmp_path / "store").as_uri())
    write_model(
        tmp_path / "model", MODEL, Decoder(MODEL, seed=3).state_dict(), start_id=0, end_id=1
    )
    manifest = upload_files(
        store, PREFIX, tmp_path / "model", lineage="demo", version="1-a", origin="", code_version=""
    )
    publish_model(store, PREFIX, manifest)
    files = write_holdout_shards(
        documents(), tmp_path / "web" / "holdout", token_dtype="uint16", prefix="web/holdout"
    )
    for file in files:
        store.put_file(f"snapshots/a/{file.name}", tmp_path / file.name)
    folder = HoldoutFolder(
        prefix="snapshots/a",
        folder="web/holdout",
        files=files,
        token_dtype="uint16",
        start_id=0,
        end_id=1,
        seq_len=32,
    )
    return ScoringJob(
        store_uri=(tmp_path / "store").as_uri(),
        folders=(folder,),
        batches=tuple(ScoringBatch(model=PREFIX, units=(unit,)) for unit in UNITS),
        work_dir=tmp_path / "work",
        num_threads=1,
        use_gpu=False,
    )


def scores(process: psutil.Process) -> bool:
    """Whether it is a worker that scores, and lives."""
    try:
        # The kernel keeps 15 characters of a name.
        return process.status() != psutil.STATUS_ZOMBIE and "PoolWorker" in process.name()
    except psutil.NoSuchProcess:
        return False


def test_two_workers_give_the_bits_of_one_process_also_when_one_is_killed(
    job: ScoringJob, caplog: pytest.LogCaptureFixture
) -> None:
    found: dict[int, tuple[Nats, ...]] = {}
    killed: list[int] = []

    def take(batch: int, nats: tuple[Nats, ...]) -> None:
        assert batch not in found
        found[batch] = nats
        workers = [] if killed else list(filter(scores, psutil.Process().children(recursive=True)))
        if workers:
            killed.append(workers[0].pid)
            os.kill(workers[0].pid, signal.SIGKILL)

    with caplog.at_level(logging.INFO, "training"):
        score_on_ray(job, POOL, take)
    assert killed
    (folder,) = job.folders
    rows = documents()
    alone = score_units(
        Decoder(MODEL, seed=3).eval(),
        [(folder, [rows[row] for row in unit]) for _, unit in UNITS],
        num_threads=1,
    )
    assert [found[number][0] for number in range(len(UNITS))] == alone


def test_what_a_worker_finds_wrong_is_raised_as_it_is(job: ScoringJob) -> None:
    (first, *rest) = job.batches
    lost = replace(first, model="lineages/demo/models/9-lost")
    job = replace(job, batches=(lost, *rest))
    with pytest.raises(NotFoundError, match="models/9-lost"):
        score_on_ray(job, POOL, lambda *_: None)


def test_a_cluster_that_is_not_there_is_told_at_once(job: ScoringJob) -> None:
    with pytest.raises(TrainingError, match=r"Ray's head must answer at 127\.0\.0\.1:1"):
        score_on_ray(job, replace(POOL, address="127.0.0.1:1"), lambda *_: None)


def test_nothing_to_score_starts_nothing(job: ScoringJob) -> None:
    score_on_ray(replace(job, batches=()), replace(POOL, address="127.0.0.1:1"), lambda *_: None)
