"""Scoring on Ray: batches of units over any number of workers, each of which loads a model once.

As for training, Ray is in another process (``training.cluster.scoring_driver``), which is started
again when it dies. What is scored is handed back batch by batch, for the caller to put on record,
so that whoever starts again begins with what is missing. Importing this module does not import
torch or Ray, and neither does running it.
"""

import contextlib
import logging
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from training.cluster.connection import require_head
from training.cluster.run import Said, start_driver
from training.data.holdout_folder import HoldoutFolder
from training.errors import TrainingError
from training.items.item import Item
from training.items.score import ItemScore

logger = logging.getLogger(__name__)

_END_SECONDS = 20.0
"""For the driver to stop a Ray of our own."""
_RETRY_SECONDS = 1.0

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


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringRequest:
    """What the driver is told when it starts."""

    job: ScoringJob
    num_workers: int
    address: str | None
    max_failures: int
    wait_seconds: float
    """For room in the cluster."""
    log_level: int = logging.INFO
    todo: tuple[int, ...] = ()
    """Numbers of the batches that are to be scored; filled in when the driver is started."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A batch is done: the nats of every document of every unit, or the answers of every part."""

    batch: int
    found: tuple[Nats, ...] | tuple[Answers, ...]


@dataclass(frozen=True, slots=True)
class Failed:
    """The driver gives up; what no other attempt would mend."""

    error: Exception


class Finished:
    """Every batch is done."""


def score_on_ray(request: ScoringRequest, on_scored: Callable[[int, Any], None]) -> None:
    """Score all batches of the job on the Ray at ``address``, or on one of our own.

    Args:
        request: What to score, and where.
        on_scored: Called with the number of a batch and what was found, the ``Nats`` of each of its
            units or the ``Answers`` of each of its parts, in any order, once for each batch.

    Raises:
        TrainingError: There were more than ``max_failures`` losses of workers, no room for one in
            time, or no such cluster.
        StorageError: A model or a shard is missing or damaged.
        ValueError: A model cannot be computed, or documents cannot be given to it.
    """
    request = replace(request, log_level=logging.getLogger("training").getEffectiveLevel())
    todo = set(range(len(request.job.batches)))
    failures = 0
    while todo:
        if request.address is not None:
            require_head(request.address)
        lost = _attempt(replace(request, todo=tuple(sorted(todo))), todo, on_scored)
        if not todo:
            return
        failures += 1
        if failures > request.max_failures:
            raise TrainingError(
                f"scoring must end with at most {request.max_failures} failures of Ray, and failed "
                f"again: {lost}; run it again, it goes on with what is missing"
            )
        logger.warning(
            f"scoring was cut off, {failures} of at most {request.max_failures} times: {lost}; it "
            "goes on with what is missing"
        )
        time.sleep(_RETRY_SECONDS)


def _attempt(request: ScoringRequest, todo: set[int], on_scored: Callable[[int, Any], None]) -> str:
    """One life of the driver; takes what is done out of ``todo``; returns how it ended."""
    process, connection = start_driver("training.cluster.scoring_driver")
    with contextlib.closing(connection):
        connection.send(request)
        while True:
            try:
                message = connection.recv()
            except (EOFError, OSError):
                code = process.wait()
                return f"killed by signal {-code}" if code < 0 else f"exit code {code}"
            if isinstance(message, Said):
                logging.getLogger(message.name).log(message.level, "%s", message.message)
            elif isinstance(message, Scored):
                todo.discard(message.batch)
                on_scored(message.batch, message.found)
            elif isinstance(message, Failed | Finished):
                _ended(process)
                if isinstance(message, Failed):
                    raise message.error
                return "finished"


def _ended(process: "subprocess.Popen[bytes]") -> None:
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
