"""Lives of a run: who may commit its checkpoints. Needs no torch.

A life is one start of the run's workers. It takes the next number under ``<prefix>/lives/`` before
it looks for the checkpoint to go on from. A worker that was cut off, and wakes up when the run has
long gone on without it, finds a higher number than its own and stops.
"""

import os
import socket
from dataclasses import dataclass

from storage.errors import AlreadyExistsError
from storage.manifest import readable_json
from storage.objects import ObjectStore
from training.errors import StaleLifeError


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """One start of a run's workers, as ``lives/<number>.json`` has it."""

    prefix: str
    """Of the run's checkpoints."""
    number: int
    """From 1."""
    host: str
    """For people."""
    pid: int
    nonce: str
    """Random, so that a write whose answer was lost is recognised as our own."""


def begin_life(store: ObjectStore, prefix: str) -> Life:
    """Take the next number; from now on no earlier life commits anything. One rank calls this."""
    number = newest_life(store, prefix) + 1
    nonce, host = os.urandom(8).hex(), socket.gethostname()
    while True:
        life = Life(prefix=prefix, number=number, host=host, pid=os.getpid(), nonce=nonce)
        try:
            store.put_if_absent(f"{prefix}/lives/{number}.json", readable_json(life))
        except AlreadyExistsError:
            number += 1
        else:
            return life


def newest_life(store: ObjectStore, prefix: str) -> int:
    """The highest number taken, 0 when there is none."""
    lives = f"{prefix}/lives"
    names = (info.key.removeprefix(f"{lives}/") for info in store.list(lives))
    return max((int(name.removesuffix(".json")) for name in names), default=0)


def require_newest(store: ObjectStore, life: Life) -> None:
    """Refuse to go on as ``life`` when a newer one has begun.

    Asked right before a commit. What slips through in between is whole and a state of the same
    plan; the newer life reads it or saves its own.

    Raises:
        StaleLifeError: A newer life has begun.
    """
    newest = newest_life(store, life.prefix)
    if newest > life.number:
        raise StaleLifeError(
            f"life {life.number} of the run under {life.prefix} must be the newest to commit a "
            f"checkpoint, and life {newest} has begun meanwhile; this process was taken for lost "
            "and stops"
        )
