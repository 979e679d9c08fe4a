"""One start or stop of a stack at a time."""

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Generator

from infra.stack.state import StackError, StackFolder

_WAIT_SECONDS = 600.0
_POLL_SECONDS = 0.25


@contextlib.contextmanager
def locked(folder: StackFolder, tell: Callable[[str], None]) -> Generator[None]:
    """Hold the stack's lock, after others are done; the kernel frees it when its holder dies.

    Raises:
        StackError: Another holds it for ten minutes.
    """
    descriptor = os.open(folder.lock, os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + _WAIT_SECONDS
    has_told = False
    try:
        while not _take(descriptor):
            if not has_told:
                tell("another 'perennial up' or 'down' is at work here: waiting for it")
                has_told = True
            if time.monotonic() > deadline:
                raise StackError(
                    f"{folder.lock} must become free within {_WAIT_SECONDS:.0f} s, and is held by "
                    "another 'perennial up' or 'down'; look at what that waits for"
                )
            time.sleep(_POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)


def is_locked(folder: StackFolder) -> bool:
    """Whether somebody starts or stops right now."""
    try:
        descriptor = os.open(folder.lock, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        return not _take(descriptor)
    finally:
        os.close(descriptor)


def _take(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
