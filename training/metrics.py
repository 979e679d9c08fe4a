"""Names and units of training metrics, and their way through the object store. Needs no torch.

Rank 0 writes one JSON object a step into immutable chunks; whoever can read the store can follow a
run, on any machine, without a connection to its workers.
"""

import json
import time
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
"""Inputs over all streams and workers, since the update began."""
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
CHECKSUM = "data/checksum"
"""Sum of CRC-32 over the rows of the global batch: the same for any number of workers."""

MEASURED = (TIME, ELAPSED_SECONDS, TOKENS_PER_SECOND, MFU, DATA_WAIT_FRACTION)
"""What the clock decides; everything else is equal in every life of a run."""
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

    A step that was taken again after a crash is there once, as it was written last.
    """
    newest: dict[int, dict[str, Any]] = {}
    for info in store.list(prefix):
        last_step = int(info.key.rpartition("/")[2].split("-")[1])
        if last_step <= after_step:
            continue
        for line in store.get(info.key).splitlines():
            row = json.loads(line)
            known = newest.get(row[STEP])
            if row[STEP] > after_step and (known is None or known[TIME] < row[TIME]):
                newest[row[STEP]] = row
    return [newest[step] for step in sorted(newest)]
