"""A store that kills its own process at a chosen operation, and a way to run such a process."""

import os
import signal
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from storage.objects import ObjectInfo, ObjectStore, ObjectVersion

_T = TypeVar("_T")


class KillingObjects:
    """Passes everything on to ``inner``; SIGKILLs its process before or after the n-th operation.

    Operations count from 1. ``local_path`` and ``uri`` touch no state and do not count.
    """

    def __init__(
        self, inner: ObjectStore, *, kill_before: int | None = None, kill_after: int | None = None
    ) -> None:
        self._inner = inner
        self._kill_before = kill_before
        self._kill_after = kill_after
        self.operations = 0

    @property
    def uri(self) -> str:
        return self._inner.uri

    def get(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        return self._count(lambda: self._inner.get(key, start=start, length=length))

    def get_with_etag(self, key: str) -> tuple[bytes, str]:
        return self._count(lambda: self._inner.get_with_etag(key))

    def put(self, key: str, body: bytes) -> None:
        self._count(lambda: self._inner.put(key, body))

    def put_if_absent(self, key: str, body: bytes) -> None:
        self._count(lambda: self._inner.put_if_absent(key, body))

    def put_if_match(self, key: str, body: bytes, etag: str) -> str:
        return self._count(lambda: self._inner.put_if_match(key, body, etag))

    def put_file(
        self,
        key: str,
        path: Path,
        *,
        bytes_per_second: float | None = None,
        may_link: bool = False,
    ) -> None:
        self._count(
            lambda: self._inner.put_file(
                key, path, bytes_per_second=bytes_per_second, may_link=may_link
            )
        )

    def get_file(self, key: str, path: Path) -> None:
        self._count(lambda: self._inner.get_file(key, path))

    def exists(self, key: str) -> bool:
        return self._count(lambda: self._inner.exists(key))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return self._count(lambda: iter([*self._inner.list(prefix)]))

    def delete(self, key: str) -> None:
        self._count(lambda: self._inner.delete(key))

    def list_versions(self, prefix: str) -> Iterator[ObjectVersion]:
        return self._count(lambda: iter([*self._inner.list_versions(prefix)]))

    def get_version(
        self, key: str, version: str, *, start: int = 0, length: int | None = None
    ) -> bytes:
        return self._count(
            lambda: self._inner.get_version(key, version, start=start, length=length)
        )

    def purge(self, key: str, *, keep_newest: bool = False) -> int:
        return self._count(lambda: self._inner.purge(key, keep_newest=keep_newest))

    def list_uploads(self, prefix: str) -> Iterator[ObjectInfo]:
        return self._count(lambda: iter([*self._inner.list_uploads(prefix)]))

    def abort_uploads(self, prefix: str, *, older_than: float) -> int:
        return self._count(lambda: self._inner.abort_uploads(prefix, older_than=older_than))

    def local_path(self, key: str) -> Path | None:
        return self._inner.local_path(key)

    def _count(self, operation: Callable[[], _T]) -> _T:
        self.operations += 1
        if self.operations == self._kill_before:
            os.kill(os.getpid(), signal.SIGKILL)
        result = operation()
        if self.operations == self._kill_after:
            os.kill(os.getpid(), signal.SIGKILL)
        return result


@dataclass(frozen=True, slots=True)
class ExitInfo:
    """How a forked child ended."""

    killed: bool
    """By SIGKILL."""
    code: int
    """Exit status, or minus the signal."""
    error: str
    """Traceback of what it raised, else empty."""


def run_killed(fn: Callable[[], object]) -> ExitInfo:
    """Run ``fn`` in a fork of this process and wait for it; everything imported stays warm."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 0
        try:
            fn()
        except BaseException:  # the child must never return into the test runner
            os.write(writer, traceback.format_exc().encode())
            code = 1
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        error = pipe.read().decode()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return ExitInfo(killed=code == -signal.SIGKILL, code=code, error=error)


def count_operations(inner: ObjectStore, fn: Callable[[ObjectStore], object]) -> int:
    """How many store operations ``fn`` makes on ``inner``, a scratch store that it changes."""
    counting = KillingObjects(inner)
    fn(counting)
    return counting.operations


def kill_points(operations: int) -> list[dict[str, int]]:
    """Arguments of ``KillingObjects`` for a death before each operation and one after the last."""
    return [{"kill_before": n} for n in range(1, operations + 1)] + [{"kill_after": operations}]
