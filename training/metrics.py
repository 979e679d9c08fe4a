"""Names and units of training metrics, and their way through the object store. Needs no torch.

Rank 0 writes one JSON object a step into immutable chunks; whoever can read the store can follow a
run, on any machine, without a connection to its workers.
"""

import json
import time
from collections.abc import Iterable, Iterator
from typing import Any

from storage.errors import AlreadyExistsError
from storage.manifest import canonical_json
from storage.objects import ObjectStore

STEP = "step"
"""Optimizer steps taken."""
TIME = "time"
"""Seconds since the epoch."""
ELAPSED_SECONDS = "elapsed_seconds"
"""Since this life of the run began."""
TOKENS_SEEN = "tokens_seen"
"""Inputs over all streams and workers that were learned from, since the update began."""
LOSS = "train/loss"
"""Nats per token over the valid targets of the global batch; ``train/loss/<domain>``: of one."""
LR = "train/lr"
GRAD_NORM = "train/grad_norm"
"""Before clipping."""
TOKENS_PER_SECOND = "throughput/tokens_per_second"
"""Inputs over all workers."""
MFU = "throughput/mfu"
"""Useful floating-point operations as a share of what matrix products reach on this machine in the
training precision, as measured when the run begins: not of a data sheet's number."""
DATA_WAIT_FRACTION = "throughput/data_wait_fraction"
"""Share of the step that rank 0 waited for data."""
STEP_SECONDS = "throughput/step_seconds"
"""Wall time of the step, the wait for data included, and without what is recorded after it."""
SAVE_SECONDS = "throughput/save_seconds"
"""How long rank 0 waited for checkpoints since the row before."""
LIFE = "life"
"""Number of the start of the run's workers that took the step, from 1; 0 when nobody counts."""
CHECKSUM = "data/checksum"
"""Sum of CRC-32 over the rows of the global batch: the same for any number of workers."""

WEIGHT_NORM = "train/weight_norm"
"""Euclidean norm of all weights, every tenth step."""
SKIPPED_STEPS = "guard/skipped_steps"
"""Global batches so far from which nothing was learned; their rows have no loss."""
REWINDS = "guard/rewinds"
"""How often the run went back so far."""

GOODPUT = "goodput"
"""``goodput/productive_share`` and ``goodput/<bucket>_seconds``: of a whole run, once."""

EVAL = "eval"
"""``eval/<domain>/nats_per_token``: held-out loss of the candidate on an old domain; of an update,
once, as are all that follow."""
EVAL_NEW = "eval_new"
"""``eval_new/<domain>/nats_per_token``: the same on a domain of the new data."""
EVAL_TASK = "eval_task"
"""``eval_task/<task>/accuracy``, and ``eval_task/<task>/negative_flips``: items that the champion
has right and the candidate wrong."""
GAIN = "verdict/gain"
"""Nats per token that the candidate lies below the champion on all new data."""
GAIN_BOUND = "verdict/gain_bound"
"""The lower bound of the gain."""
WORST_LOSS = "verdict/worst_loss"
"""Largest rise on a guarded old domain, nats per token."""
WORST_BOUND = "verdict/worst_bound"
"""Largest upper bound of such a rise, nats per token."""
FORGETTING = "forgetting"
"""``forgetting/mean``, ``forgetting/worst``, ``forgetting/backward_transfer`` and
``forgetting/forward_transfer``, nats per token."""
STABILITY = "stability"
"""``stability/<domain>/depth_nats`` and ``stability/<domain>/recovery_tokens``."""
DRIFT = "drift"
"""``drift/total`` and ``drift/layer_<n>``: relative change of the weights from the champion's."""
HEALTH = "health"
"""``health/<measure>`` of the candidate's continuations, ``health/champion_<measure>``."""
CALIBRATION = "calibration"
"""``calibration/expected_error`` of the candidate, and ``calibration/champion_expected_error``."""
TOKENS_WORSE = "tokens/worse_share"
"""Share of old tokens that cost more than 0.1 nats more than before."""
CANARY = "canary/worst_perplexity_ratio"
"""Over slices, candidate to champion."""

MEASURED = (
    *(TIME, ELAPSED_SECONDS, STEP_SECONDS, SAVE_SECONDS, LIFE),
    *(TOKENS_PER_SECOND, MFU, DATA_WAIT_FRACTION),
)
"""What the clock decides, and the life; everything else is equal in every life of a run."""
FLUSH_SECONDS = 2.0


class MetricJournal:
    """Appends rows, and stores them as chunks every two seconds.

    Args:
        store: Where the run lives.
        prefix: Prefix of the chunks.
    """

    def __init__(self, store: ObjectStore, prefix: str) -> None:
        self._store, self._prefix = store, prefix
        self._rows: list[dict[str, Any]] = []
        self._flushed_at = time.monotonic()

    @property
    def unstored(self) -> list[dict[str, Any]]:
        """Rows that no flush has stored so far; may be asked for in any thread."""
        return list(self._rows)

    def append(self, row: dict[str, Any]) -> None:
        """Add the row of one step; it is durable after the next flush."""
        self._rows.append(row)
        if time.monotonic() - self._flushed_at >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Store what was appended since the last flush as one immutable chunk; safe to retry."""
        self._flushed_at = time.monotonic()
        if not self._rows:
            return
        body = b"".join(canonical_json(row) + b"\n" for row in self._rows)
        span = f"{self._rows[0][STEP]:08d}-{self._rows[-1][STEP]:08d}"
        life = 0
        while True:
            # An earlier life of the run may have written the same steps before it died.
            try:
                self._store.put_if_absent(f"{self._prefix}/{span}-{life}.jsonl", body)
            except AlreadyExistsError:
                life += 1
            else:
                break
        self._rows.clear()


def read_metrics(store: ObjectStore, prefix: str, *, after_step: int = 0) -> list[dict[str, Any]]:
    """Rows of the steps after ``after_step`` that were flushed, one a step, in order.

    A step that was taken again after a crash is there once, as it was written last. Of steps that
    the run went back behind, only the new branch is there.
    """
    newest: dict[int, dict[str, Any]] = {}
    for row in read_every_row(store, prefix, after_step=after_step):
        known = newest.get(row[STEP])
        if known is None or _age(known) < _age(row):
            newest[row[STEP]] = row
    return _kept_branch(newest)


def read_every_row(
    store: ObjectStore, prefix: str, *, after_step: int = 0
) -> Iterator[dict[str, Any]]:
    """All rows of the steps after ``after_step`` that were flushed, in no order.

    Steps that were taken again are there as often as they were taken, or more often: a chunk whose
    first attempt was stored although it seemed to fail is there twice.
    """
    for info in store.list(prefix):
        last_step = int(info.key.rpartition("/")[2].split("-")[1])
        if last_step > after_step:
            yield from (row for row in _rows_in(store, info.key) if row[STEP] > after_step)


def read_last_rows(store: ObjectStore, prefix: str, *, chunks: int = 12) -> list[dict[str, Any]]:
    """Rows of the chunks that were stored last, in the order of their time, for people to look at.

    Reads few objects: twelve chunks are the last 24 seconds, or as many steps if those take longer.
    """
    # By the store's clock, for a run that went back writes lower steps last.
    newest = sorted(store.list(prefix), key=lambda info: (info.modified_at, info.key))[-chunks:]
    rows = [row for info in newest for row in _rows_in(store, info.key)]
    return sorted(rows, key=lambda row: row[TIME])


class JournalFollower:
    """Follows a journal that is being written.

    Args:
        store: Where the run lives.
        prefix: Prefix of the chunks.
    """

    def __init__(self, store: ObjectStore, prefix: str) -> None:
        self._store, self._prefix = store, prefix
        self._read: set[str] = set()
        self._rewinds: dict[int, int] = {}

    def new_rows(self) -> list[dict[str, Any]]:
        """Rows that were flushed since the last call, in the order of their steps.

        Each step comes once, and again when the run went back behind it.
        """
        new: dict[int, dict[str, Any]] = {}
        for info in self._store.list(self._prefix):
            if info.key in self._read:
                continue
            self._read.add(info.key)
            for row in _rows_in(self._store, info.key):
                if self._rewinds.get(row[STEP], -1) < rewinds_in([row]):
                    self._rewinds[row[STEP]] = rewinds_in([row])
                    new[row[STEP]] = row
        return _kept_branch(new)


def rewinds_in(rows: Iterable[dict[str, Any]]) -> int:
    """How often the run had gone back by the newest of these rows."""
    return max((int(row.get(REWINDS, 0)) for row in rows), default=0)


def _rows_in(store: ObjectStore, chunk: str) -> Iterator[dict[str, Any]]:
    return (json.loads(line) for line in store.get(chunk).splitlines())


def _kept_branch(rows: dict[int, dict[str, Any]]) -> list[dict[str, Any]]:
    """In order, without the steps of a left branch that the run has not come to again."""
    kept: list[dict[str, Any]] = []
    rewinds = 0
    for step in sorted(rows):
        if rewinds_in([rows[step]]) >= rewinds:
            rewinds = rewinds_in([rows[step]])
            kept.append(rows[step])
    return kept


def _age(row: dict[str, Any]) -> tuple[int, float]:
    """Sorts the rows of one step; the clocks of two machines cannot turn two branches round."""
    return rewinds_in([row]), row[TIME]
