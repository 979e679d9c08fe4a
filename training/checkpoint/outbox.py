"""What the local disk has and the store does not yet: sent in a thread, the oldest first.

While the store is away or full, the newest checkpoint waits on the local disk, and with it those
that no later one makes up for; they follow when it is back.
"""

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from storage.absence import RETRY_SECONDS, is_store_away
from storage.errors import StorageError, UnavailableError
from storage.objects import ObjectStore
from training.checkpoint.index import (
    MANIFEST,
    CheckpointConfig,
    discard_old,
    local_steps,
    step_prefix,
)
from training.checkpoint.run_life import Life
from training.checkpoint.state import commit
from training.config import TrainPlan

logger = logging.getLogger(__name__)

_NICE = 10
"""Of the threads that write, hash and send: a step never waits for them, and they get what is left
of the processors."""


@dataclass(frozen=True, slots=True)
class _Unsent:
    """A checkpoint of the local disk that the store does not have yet."""

    step: int
    folder: Path


class Outbox:
    """Sends a run's checkpoints from the local disk to the store.

    Args:
        store: Where they go.
        plan: What is trained.
        work_dir: Local folder; the newest checkpoint stays there, for a start on the same machine.
        life: Whose checkpoints they are; None asks nobody.
        config: How many stay, how fast they go.
        before_commit: Called with the step, in the thread that sends, before its manifest is
            written. May raise what the store raises.
    """

    def __init__(
        self,
        store: ObjectStore,
        plan: TrainPlan,
        work_dir: Path,
        *,
        life: Life | None,
        config: CheckpointConfig,
        before_commit: Callable[[int], None],
    ) -> None:
        self._store, self._plan, self._work_dir, self._life = store, plan, work_dir, life
        self._config, self._before_commit = config, before_commit
        self._thread = ThreadPoolExecutor(1, "checkpoint-store", yield_to_training)
        self._sent: Future[None] | None = None
        self._changed = threading.Condition()
        self._unsent: list[_Unsent] = []
        self._is_away = False
        self._tried_at = 0.0

    def add(self, step: int, folder: Path) -> None:
        """Send the checkpoint in ``folder``, after those that wait already."""
        with self._changed:
            self._unsent.append(_Unsent(step, folder))
            if self._is_away:
                self._drop_superseded()
        self._send_soon()

    def wait_for_room(self) -> None:
        """Return when at most one checkpoint waits, or the store is away."""
        with self._changed:
            while len(self._unsent) > 1 and not self._is_away:
                if self._sent is not None and self._sent.done():
                    return
                self._changed.wait(0.1)

    def try_again_if_due(self) -> None:
        """Send to a store that was away, if the last try is long enough ago."""
        if self._is_away and time.monotonic() - self._tried_at > RETRY_SECONDS:
            self._send_soon()

    def raise_failure(self) -> None:
        """Raise what the sending ended with, if it did."""
        if self._sent is not None and self._sent.done():
            self._sent.result()

    def send_all(self) -> None:
        """Return when the store has everything.

        Raises:
            UnavailableError: It was away or full for longer than ``store_wait_seconds``.
            Exception: What the sending ended with.
        """
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

    def wait_for_last_try(self) -> None:
        """Return when nothing is under way. Raises what it ended with."""
        if self._sent is not None:
            self._sent.result()

    def close(self) -> None:
        """End the thread; says what the store does not have."""
        self._thread.shutdown()
        if self._unsent:
            logger.warning(
                "the checkpoint of step %d is on this machine only, in %s",
                *(self._unsent[-1].step, self._unsent[-1].folder),
            )

    def _drop_superseded(self) -> None:
        for unsent in self._unsent[:-1]:
            if not self._config.is_needed(unsent.step, self._plan):
                self._unsent.remove(unsent)
                shutil.rmtree(unsent.folder, ignore_errors=True)

    def _send_soon(self) -> None:
        with self._changed:
            self._tried_at = time.monotonic()
            self._sent = self._thread.submit(self._send)

    def _send(self) -> None:
        """Runs in the thread."""
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
        self._before_commit(unsent.step)
        commit(
            self._store,
            step_prefix(self._plan.checkpoint_prefix, unsent.step),
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
        for found, folder in local_steps(run):
            if found < until:
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


def yield_to_training() -> None:
    """Lower the priority of this thread, and of those that it starts."""
    if hasattr(os, "setpriority"):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
