"""Scoring on Ray: batches of units over any number of workers, each of which loads a model once.

What is scored is handed back batch by batch, for the caller to put on record, so that whoever
starts again begins with what is missing. Importing this module does not import torch or Ray.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage.objects import open_store
from training.cluster.pool import Pool, map_on_ray
from training.data.holdout_folder import HoldoutFolder
from training.items.item import Item
from training.items.score import ItemScore

if TYPE_CHECKING:
    from training.causal_model import CausalModel
    from training.data.holdout import HoldoutDocument
    from training.tokenizer import Tokenizer

Nats = tuple[float, ...]
Answers = tuple[ItemScore, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringBatch:
    """What one worker scores with one model before it tells of it: units, or parts of tasks."""

    model: str
    """Prefix of a published model."""
    units: tuple[tuple[int, tuple[int, ...]], ...] = ()
    """Of each unit the number of its folder in the job, and its documents' places in that."""
    parts: tuple[int, ...] = ()
    """Numbers of parts in the job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringJob:
    """What a worker needs to know; pickled by Ray on its way there."""

    store_uri: str
    batches: tuple[ScoringBatch, ...]
    folders: tuple[HoldoutFolder, ...] = ()
    parts: tuple[tuple[Item, ...], ...] = ()
    """Items of tasks, those together that are always scored together."""
    tokenizer: str = ""
    """Prefix of the tokenizer with which items are read."""
    work_dir: Path
    """On whatever machine the worker is; created there."""
    num_threads: int
    use_gpu: bool


def score_on_ray(job: ScoringJob, pool: Pool, on_scored: Callable[[int, Any], None]) -> None:
    """Score all batches of the job on Ray.

    Args:
        job: What to score.
        pool: The workers.
        on_scored: Called with the number of a batch and what was found, the ``Nats`` of each of its
            units or the ``Answers`` of each of its parts, in any order, once for each batch.

    Raises:
        TrainingError: There were more than ``max_failures`` losses of workers, no room for one in
            time, or no such cluster.
        StorageError: A model or a shard is missing or damaged.
        ValueError: A model cannot be computed, or documents cannot be given to it.
    """
    for number, found in map_on_ray(partial(ScoringWorker, job), job.batches, pool):
        on_scored(number, found)


class ScoringWorker:
    """Scores in a process of Ray: holds one model at a time, and the folders that it has read."""

    def __init__(self, job: ScoringJob) -> None:
        self._job = job
        self._store = open_store(job.store_uri)
        self._prefix = ""
        self._model: CausalModel | None = None
        self._read_with: Tokenizer | None = None
        self._documents: dict[int, list[HoldoutDocument]] = {}

    def __call__(self, batch: ScoringBatch) -> tuple[Nats, ...] | tuple[Answers, ...]:
        """What the batch's model makes of its units, or of its parts of tasks."""
        return self._answers(batch) if batch.parts else self._nats(batch)

    def _answers(self, batch: ScoringBatch) -> tuple[Answers, ...]:
        from training.items.score_parts import score_parts  # noqa: PLC0415  torch

        parts = [self._job.parts[number] for number in batch.parts]
        threads = self._job.num_threads
        return tuple(
            score_parts(self._load(batch.model), self._tokenizer(), parts, num_threads=threads)
        )

    def _nats(self, batch: ScoringBatch) -> tuple[Nats, ...]:
        from training.score_units import score_units  # noqa: PLC0415  torch

        units = [
            (self._job.folders[folder], [self._folder(folder)[row] for row in rows])
            for folder, rows in batch.units
        ]
        threads = self._job.num_threads
        return tuple(score_units(self._load(batch.model), units, num_threads=threads))

    def _load(self, prefix: str) -> "CausalModel":
        from storage.models import fetch_model  # noqa: PLC0415  only where a model is scored
        from training.model_files import load_model  # noqa: PLC0415  torch

        if self._model is None or prefix != self._prefix:
            self._model = None
            folder = self._job.work_dir.absolute() / prefix
            model = load_model(fetch_model(self._store, prefix, folder))
            self._model, self._prefix = model.to("cuda:0" if self._job.use_gpu else "cpu"), prefix
        return self._model

    def _tokenizer(self) -> "Tokenizer":
        from training.tokenizer import fetch_tokenizer  # noqa: PLC0415  tokenizers

        if self._read_with is None:
            folder = self._job.work_dir.absolute() / "tokenizer"
            self._read_with = fetch_tokenizer(self._store, self._job.tokenizer, folder)
        return self._read_with

    def _folder(self, number: int) -> "list[HoldoutDocument]":
        if number not in self._documents:
            cache = self._job.work_dir.absolute() / "snapshots"
            self._documents[number] = self._job.folders[number].read(self._store, cache)
        return self._documents[number]
