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

import errno
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from storage.errors import StorageError, StoreFullError, UnavailableError
from storage.objects import ObjectStore
from training.checkpoint.buffers import HostBuffers
from training.checkpoint.index import (
    MANIFEST,
    CheckpointConfig,
    Progress,
    discard_old,
    step_prefix,
)
from training.checkpoint.run_life import Life
from training.checkpoint.state import TrainState, commit, progress_of, weights_of, write_local
from training.config import TrainPlan
from training.errors import TrainingError
from training.optim import moments_of

logger = logging.getLogger(__name__)

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
RETRY_SECONDS = 10.0
"""Between two tries to reach a store that is away, or to write to a disk that is full."""
_NICE = 10
"""Of the threads that write, hash and send: a step never waits for them, and they get what is left
of the processors."""


@dataclass(frozen=True, slots=True)
class _Unsent:
    """A checkpoint of the local disk that the store does not have yet."""

    step: int
    folder: Path


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
    ) -> None:
        self._store, self._plan, self._work_dir, self._life = store, plan, work_dir, life
        self._config = config or CheckpointConfig()
        self._before_commit = before_commit
        self._buffers = HostBuffers()
        # The step waits for this one, so it has the training's own priority.
        self._copier = ThreadPoolExecutor(1, "checkpoint-copy")
        self._writer = ThreadPoolExecutor(1, "checkpoint-disk", _yield_to_training)
        self._sender = ThreadPoolExecutor(1, "checkpoint-store", _yield_to_training)
        self._copied: Future[None] | None = None
        self._written: Future[None] | None = None
        self._sent: Future[None] | None = None
        self._changed = threading.Condition()
        self._unsent: list[_Unsent] = []
        self._is_away = False
        self._tried_at = 0.0

    def start(self, state: TrainState, tokens_seen: dict[str, int]) -> None:
        """Begin to save ``state``; blocks while an earlier save is in the way.

        The caller changes neither weights nor moments before ``wait_until_copied`` has returned.

        Raises:
            Exception: What an earlier save ended with.
        """
        self._wait_for_room()
        progress = progress_of(self._plan, state, tokens_seen)
        weights, moments = weights_of(state.model), moments_of(state.model, state.optimizer)
        fill = self._buffers.prepare({"weights": weights, "moments": moments})
        self._copied = self._copier.submit(fill)
        self._written = self._writer.submit(self._write, progress, self._copied)

    def wait_until_copied(self) -> None:
        """Return when weights and moments may change. Raises what a save ended with."""
        if self._copied is not None:
            self._copied.result()
            self._copied = None
        self._raise_failures()
        if self._is_away and time.monotonic() - self._tried_at > RETRY_SECONDS:
            self._send_soon()

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
                self._wait_for_store()
            elif self._sent is not None:
                self._sent.result()
        except (StorageError, TrainingError, OSError) as error:
            if is_complete:
                raise
            logger.warning("the last checkpoint of this life was not saved: %s", error)
        finally:
            for pool in (self._copier, self._writer, self._sender):
                pool.shutdown()
        if self._unsent:
            logger.warning(
                "the checkpoint of step %d is on this machine only, in %s",
                *(self._unsent[-1].step, self._unsent[-1].folder),
            )

    def _wait_for_room(self) -> None:
        if self._written is not None:
            self._written.result()
        with self._changed:
            while len(self._unsent) > 1 and not self._is_away:
                if self._sent is not None and self._sent.done():
                    break
                self._changed.wait(0.1)
        self._raise_failures()

    def _raise_failures(self) -> None:
        for future in (self._written, self._sent):
            if future is not None and future.done():
                future.result()

    def _wait_for_store(self) -> None:
        give_up_at = time.monotonic() + self._config.store_wait_seconds
        while self._unsent:
            if self._sent is None or self._sent.done():
                self._send_soon()
            assert self._sent is not None
            self._sent.result()
            if not self._unsent:
                return
            if time.monotonic() + RETRY_SECONDS > give_up_at:
                last = self._unsent[-1]
                raise UnavailableError(
                    f"the checkpoint of step {last.step} of {self._plan.update} must be in the "
                    f"store {self._store.uri} at the end of the run, which was away or full for "
                    f"{self._config.store_wait_seconds:g} s; mend the store and run it again: on "
                    f"this machine it goes on from {last.folder}"
                )
            time.sleep(RETRY_SECONDS)

    def _write(self, progress: Progress, copied: "Future[None]") -> None:
        """Runs in a thread: the buffers to the local disk."""
        copied.result()
        folder = self._work_dir / step_prefix(self._plan.checkpoint_prefix, progress.step)
        parts = self._buffers.parts
        is_needed = self._is_needed(progress.step)
        give_up_at = time.monotonic() + self._config.store_wait_seconds
        while True:
            try:
                write_local(folder, progress, parts["weights"], parts["moments"])
                break
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                logger.warning(
                    "the disk has no room for the checkpoint of step %d in %s (%s); the training "
                    "goes on, make room",
                    *(progress.step, folder, error.strerror),
                )
                if not is_needed:
                    return
                if time.monotonic() + RETRY_SECONDS > give_up_at:
                    raise
            time.sleep(RETRY_SECONDS)
        with self._changed:
            self._unsent.append(_Unsent(progress.step, folder))
            if self._is_away:
                self._drop_superseded()
        self._send_soon()

    def _is_needed(self, step: int) -> bool:
        """Whether no later checkpoint makes up for that of ``step``."""
        is_named = step in (self._plan.trunk_step, self._plan.num_steps)
        return is_named or self._config.is_permanent(step)

    def _drop_superseded(self) -> None:
        """Of those that wait for a store that is away, keep the newest and what must not go."""
        for unsent in self._unsent[:-1]:
            if not self._is_needed(unsent.step):
                self._unsent.remove(unsent)
                shutil.rmtree(unsent.folder, ignore_errors=True)

    def _send_soon(self) -> None:
        with self._changed:
            self._tried_at = time.monotonic()
            self._sent = self._sender.submit(self._send)

    def _send(self) -> None:
        """Runs in a thread: what is on the local disk to the store, the oldest first."""
        while self._unsent:
            unsent = self._unsent[0]
            try:
                self._send_one(unsent)
            except (StorageError, OSError) as error:
                if not is_store_away(error):
                    raise
                self._note_absence(error)
                return
            with self._changed:
                if self._is_away:
                    logger.info("the store %s is back", self._store.uri)
                self._is_away = False
                self._unsent.remove(unsent)
                self._changed.notify_all()

    def _send_one(self, unsent: _Unsent) -> None:
        checkpoint = step_prefix(self._plan.checkpoint_prefix, unsent.step)
        self._before_commit(unsent.step)
        commit(
            self._store,
            checkpoint,
            unsent.folder,
            life=self._life,
            is_permanent=self._config.is_permanent(unsent.step),
            bytes_per_second=self._config.upload_bytes_per_second,
        )
        discard_old(self._store, self._plan, self._config)
        self._remove_local(unsent.step)

    def _remove_local(self, step: int) -> None:
        """Keep the newest checkpoint on the local disk, and none where the store is local too."""
        run = self._work_dir / self._plan.checkpoint_prefix
        key = f"{self._plan.checkpoint_prefix}/step-{step}/{MANIFEST}"
        # Later ones are being written, or wait for their turn.
        until = step if self._store.local_path(key) is None else step + 1
        for folder in run.glob("step-*"):
            if int(folder.name.removeprefix("step-")) < until:
                shutil.rmtree(folder, ignore_errors=True)

    def _note_absence(self, error: Exception) -> None:
        with self._changed:
            if not self._is_away:
                logger.warning(
                    "checkpoints stay on this machine, in %s, until the store %s takes them: %s",
                    *(self._work_dir, self._store.uri, error),
                )
            self._is_away = True
            self._drop_superseded()
            self._changed.notify_all()


def is_store_away(error: StorageError | OSError) -> bool:
    """Whether a store failed in a way that a later try may not: not reached, or full."""
    is_full = isinstance(error, StoreFullError) or getattr(error, "errno", None) in _FULL
    return is_full or isinstance(error, UnavailableError)


def _yield_to_training() -> None:
    """Lower the priority of this thread, and of those that it starts."""
    if hasattr(os, "setpriority"):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
