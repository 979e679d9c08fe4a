"""The process that speaks to Ray for one scoring; ``training.cluster.scoring`` starts it."""

import logging
import threading
import time
from collections import deque
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from storage.objects import open_store
from training.cluster.connection import connected_ray, prepare_environment
from training.cluster.driver import Line, Relay, end_with_head
from training.cluster.failures import portable
from training.cluster.scoring import (
    Answers,
    Failed,
    Finished,
    Nats,
    Scored,
    ScoringBatch,
    ScoringJob,
    ScoringRequest,
)
from training.errors import TrainingError

if TYPE_CHECKING:
    from training.causal_model import CausalModel
    from training.data.holdout import HoldoutDocument
    from training.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 5.0
"""Between two looks at whether there is room."""
_OWN_START_SECONDS = 120.0
"""For a worker on a Ray of our own, which has all the room that it will ever have."""


def main(descriptor: int) -> None:
    """Serve the process at the other end of the socket ``descriptor``."""
    connection = Connection(descriptor)
    request: ScoringRequest = connection.recv()
    line = Line(connection)
    logging.basicConfig(level=request.log_level, handlers=[Relay(line)])
    threading.Thread(target=line.listen, name="orders", daemon=True).start()
    try:
        prepare_environment(request.address)
        with connected_ray(request.address, request.num_workers):
            logging.getLogger("ray").propagate = False
            threading.Thread(target=end_with_head, name="head-watch", daemon=True).start()
            _Scoring(request, line).run()
            line.send(Finished())
    except Exception as error:
        # Whatever it is: the other process waits for an answer, and may not know Ray's errors.
        line.send(Failed(_portable(error)))


class ScoringWorker:
    """A process of Ray that scores: holds one model at a time, and the folders that it has read."""

    def __init__(self, job: ScoringJob) -> None:
        self._job = job
        self._store = open_store(job.store_uri)
        self._prefix = ""
        self._model: CausalModel | None = None
        self._read_with: Tokenizer | None = None
        self._documents: dict[int, list[HoldoutDocument]] = {}

    def ready(self) -> None:
        """Return once there is room for this worker, and it has begun."""

    def score(self, batch: ScoringBatch) -> tuple[Nats, ...] | tuple[Answers, ...]:
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


class _Scoring:
    """Hands batches to workers as they become free, and again when a worker is lost."""

    def __init__(self, request: ScoringRequest, line: Line) -> None:
        import ray  # noqa: PLC0415  heavy, see training.launch

        self._ray: Any = ray
        self._request, self._line = request, line
        self._todo = deque(request.todo)
        self._running: dict[Any, tuple[Any, int | None]] = {}
        """Worker and batch by Ray's reference; no batch while a worker starts."""
        self._failures = 0
        self._idle: list[Any] = []
        self._job = ray.put(request.job)

    def run(self) -> None:
        """Until every batch is done.

        Raises:
            TrainingError: No room for a single worker in time, or too many were lost.
        """
        for _ in range(min(self._request.num_workers, len(self._todo))):
            self._add_worker()
        patience = self._request.wait_seconds if self._request.address else _OWN_START_SECONDS
        give_up_at = time.monotonic() + patience
        left = len(self._todo)
        while left:
            done, _ = self._ray.wait(list(self._running), num_returns=1, timeout=_LOOK_SECONDS)
            for reference in done:
                left -= self._take(reference)
            if any(batch is not None for _, batch in self._running.values()):
                give_up_at = time.monotonic() + patience
            elif left and time.monotonic() >= give_up_at:
                raise TrainingError(
                    f"scoring needs room for a worker with 1 CPU{self._gpu}, and there was none "
                    f"for {patience:.0f} s; add a machine, or run it again when there is room"
                )

    @property
    def _gpu(self) -> str:
        return " and 1 GPU" if self._request.job.use_gpu else ""

    def _add_worker(self) -> None:
        num_gpus = int(self._request.job.use_gpu)
        made = self._ray.remote(num_cpus=1, num_gpus=num_gpus)(ScoringWorker)
        worker = made.remote(self._job)
        self._running[worker.ready.remote()] = (worker, None)

    def _take(self, reference: Any) -> int:
        """Take one answer, and give its worker the next batch; how many batches it ends."""
        from ray.exceptions import RayActorError  # noqa: PLC0415  heavy, see training.launch

        worker, batch = self._running.pop(reference)
        try:
            found = self._ray.get(reference)
        except RayActorError as error:
            self._lost(batch, error)
            return 0
        if batch is not None:
            self._line.send(Scored(batch, found))
        self._employ(worker)
        return int(batch is not None)

    def _employ(self, worker: Any) -> None:
        if not self._todo:
            self._idle.append(worker)
            return
        following = self._todo.popleft()
        scored = worker.score.remote(self._request.job.batches[following])
        self._running[scored] = (worker, following)

    def _lost(self, batch: int | None, error: Exception) -> None:
        self._failures += 1
        told = next((line for line in str(error).splitlines() if line.strip()), "no message")
        if self._failures > self._request.max_failures:
            raise TrainingError(
                f"scoring must end with at most {self._request.max_failures} losses of a worker, "
                f"and lost another: {told}; run it again, it goes on with what is missing"
            )
        logger.warning("a worker that scores was lost (%s); another takes its place", told)
        if batch is not None:
            self._todo.appendleft(batch)
        if self._idle:
            self._employ(self._idle.pop())
        else:
            self._add_worker()


def _portable(error: Exception) -> Exception:
    """An error that a process can read that has never heard of Ray."""
    found = portable({0: getattr(error, "cause", None) or error})[0]
    return found if isinstance(found, Exception) else RuntimeError(str(found))
