"""Saves checkpoints behind the training: the optimizer waits for copies, and for nothing else.

Weights and moments do not change during forward and backward, so that is when a thread copies them
into kept buffers of the host; the step waits for the rest of the copy just before the optimizer
changes them (DataStates-LLM, Maurya et al. 2024, arXiv:2406.10707). Then the buffers go to the
local disk, and from there to the store:

    start -> copy -> [before the update] -> local disk -> store, manifest last
             buffers in use ---------------------|

A save that begins while the one before it still uses the buffers, or while another one waits for
the store, blocks: none is dropped. Only when the store is away the run goes on with checkpoints of
its own disk, of which the newest is kept, and sends it when the store is back.
"""

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from torch import Tensor

from storage.absence import FULL, RETRY_SECONDS
from storage.errors import StorageError
from storage.objects import ObjectStore
from training.checkpoint.buffers import HostBuffers
from training.checkpoint.index import CheckpointConfig, Progress, step_prefix
from training.checkpoint.local import write_local
from training.checkpoint.outbox import Outbox, yield_to_training
from training.checkpoint.run_life import Life
from training.checkpoint.state import TrainState, progress_of, weights_of
from training.config import TrainPlan
from training.decoder.sharding import whole_of
from training.errors import TrainingError
from training.optim import moments_of

logger = logging.getLogger(__name__)


def give_pieces(state: TrainState) -> None:
    """Take part in ``CheckpointSaver.start`` of rank 0, which needs the pieces of all ranks."""
    for part in _parts_of(state).values():
        for tensor in part.values():
            whole_of(tensor)


def _parts_of(state: TrainState) -> dict[str, dict[str, Tensor]]:
    """The tensors of a checkpoint, by file and name; in one order on all ranks."""
    return {
        "weights": weights_of(state.model),
        "moments": moments_of(state.model, state.optimizer),
    }


class CheckpointSaver:
    """Saves a run's checkpoints; used from the thread that trains.

    Args:
        store: Where they go.
        plan: What is trained.
        work_dir: Local folder; the newest checkpoint stays there, for a start on the same machine.
        life: Whose checkpoints they are; None asks nobody.
        config: How many stay, how fast they go.
        before_commit: Called with the step, in a thread of the saver, before its manifest is
            written. May raise what the store raises.
        unstored_rows: Gives the rows of the journal up to a step that the store may not have yet;
            called in a thread of the saver.
    """

    def __init__(
        self,
        store: ObjectStore,
        plan: TrainPlan,
        work_dir: Path,
        *,
        life: Life | None = None,
        config: CheckpointConfig | None = None,
        before_commit: Callable[[int], None] = lambda _: None,
        unstored_rows: Callable[[int], Sequence[dict[str, Any]]] = lambda _: (),
    ) -> None:
        self._plan, self._work_dir = plan, work_dir
        self._config = config or CheckpointConfig()
        self._unstored_rows = unstored_rows
        self._buffers = HostBuffers()
        # The step waits for this one, so it has the training's own priority.
        self._copier = ThreadPoolExecutor(1, "checkpoint-copy")
        self._writer = ThreadPoolExecutor(1, "checkpoint-disk", yield_to_training)
        self._outbox = Outbox(
            store, plan, work_dir, life=life, config=self._config, before_commit=before_commit
        )
        self._copied: Future[None] | None = None
        self._written: Future[None] | None = None

    def start(self, state: TrainState, tokens_seen: dict[str, int]) -> None:
        """Begin to save ``state``; blocks while an earlier save is in the way.

        Of a model that the ranks share, the others call ``give_pieces`` at the same time.
        The caller changes neither weights nor moments before ``wait_until_copied`` has returned.

        Raises:
            Exception: What an earlier save ended with.
        """
        if self._written is not None:
            self._written.result()
        self._outbox.wait_for_room()
        self._raise_failures()
        progress = progress_of(self._plan, state, tokens_seen)
        self._copied = self._copier.submit(self._buffers.prepare(_parts_of(state)))
        self._written = self._writer.submit(self._write, progress, self._copied)

    def wait_until_copied(self) -> None:
        """Return when weights and moments may change. Raises what a save ended with."""
        if self._copied is not None:
            self._copied.result()
            self._copied = None
        self._raise_failures()
        self._outbox.try_again_if_due()

    def close(self, *, is_complete: bool) -> None:
        """Finish the save under way.

        Args:
            is_complete: The run came to its end, and must have its last checkpoint in the store.
                Else it ends by an error: then a store that is away is not waited for, and what a
                save ended with is logged.

        Raises:
            UnavailableError: The store was away for longer than ``store_wait_seconds``.
            Exception: What a save ended with.
        """
        try:
            if self._written is not None:
                self._written.result()
            self._raise_failures()
            if is_complete:
                self._outbox.send_all()
            else:
                self._outbox.wait_for_last_try()
        except (StorageError, TrainingError, OSError) as error:
            if is_complete:
                raise
            logger.warning("the last checkpoint of this life was not saved: %s", error)
        finally:
            self._copier.shutdown()
            self._writer.shutdown()
            self._outbox.close()

    def _raise_failures(self) -> None:
        if self._written is not None and self._written.done():
            self._written.result()
        self._outbox.raise_failure()

    def _write(self, progress: Progress, copied: "Future[None]") -> None:
        """Runs in a thread: the buffers to the local disk, and from there on their way."""
        copied.result()
        folder = self._work_dir / step_prefix(self._plan.checkpoint_prefix, progress.step)
        if self._has_written(folder, progress):
            self._outbox.add(progress.step, folder)

    def _has_written(self, folder: Path, progress: Progress) -> bool:
        """Whether there was room; a full disk is waited for when the checkpoint is needed."""
        parts, rows = self._buffers.parts, self._unstored_rows(progress.step)
        give_up_at = time.monotonic() + self._config.store_wait_seconds
        while True:
            try:
                write_local(folder, progress, parts["weights"], parts["moments"], rows=rows)
            except OSError as error:
                if error.errno not in FULL:
                    raise
                logger.warning(
                    "the disk has no room for the checkpoint of step %d in %s (%s); the training "
                    "goes on, make room",
                    *(progress.step, folder, error.strerror),
                )
                if not self._config.is_needed(progress.step, self._plan):
                    return False
                if time.monotonic() + RETRY_SECONDS > give_up_at:
                    raise
            else:
                return True
            time.sleep(RETRY_SECONDS)
