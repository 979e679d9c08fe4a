"""A directory as an object store: the embedded default, for one host."""

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import time
import zlib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import BinaryIO

from storage.errors import AlreadyExistsError, ConflictError, NotFoundError, UnsafeStoreError
from storage.objects import (
    LEFTOVER_SECONDS,
    PRIVATE,
    ObjectInfo,
    ObjectVersion,
    check_key,
    check_range,
)

_NUM_LOCKS = 64
# What link(2) answers on file systems that have no hard links.
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS)


class LocalObjects:
    """A directory as an object store, correct for all processes of one host.

    Writes go to a temporary file of the same file system, are flushed to the disk and then appear
    under their key in one step: ``rename`` replaces, ``link`` creates and fails when the key is
    taken. Writes that replace or remove hold a file lock, which makes ``put_if_match`` atomic.
    """

    def __init__(self, root: Path) -> None:
        self._root = Path(os.path.realpath(root))
        self._temp = self._root / PRIVATE / "tmp"
        self._locks = self._root / PRIVATE / "locks"
        self._durable: set[Path] = set()
        for directory in (self._temp, self._locks):
            directory.mkdir(parents=True, exist_ok=True)
        self._remove_leftovers(time.time() - LEFTOVER_SECONDS, lambda _: True)

    @property
    def uri(self) -> str:
        """``file:///...``."""
        return self._root.as_uri()

    def get(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        """The object's bytes or a range of them, short at its end. Raises NotFoundError."""
        check_range(key, start, length)
        with self._open(key) as file:
            file.seek(start)
            return file.read(-1 if length is None else length)

    def get_with_etag(self, key: str) -> tuple[bytes, str]:
        """The bytes and the hex SHA-256 of them. Raises NotFoundError."""
        body = self.get(key)
        return body, hashlib.sha256(body).hexdigest()

    def put(self, key: str, body: bytes) -> None:
        """Write whole or not at all, durable on return; replaces an object of that key."""
        path = self._path(key)
        with self._staged(lambda temp: temp.write_bytes(body)) as temp, self._locked(key):
            self._replace(temp, path)

    def put_if_absent(self, key: str, body: bytes) -> None:
        """Create, durable on return; AlreadyExistsError when the key holds other bytes."""
        path = self._path(key)
        if not path.exists():
            with self._staged(lambda temp: temp.write_bytes(body)) as temp:
                self._make_parents(path)
                try:
                    os.link(temp, path)
                except FileExistsError:
                    pass
                except OSError as error:
                    if error.errno not in _NO_LINKS:
                        raise
                    raise UnsafeStoreError(
                        f"the file system under {self.uri} has no hard links, without which no "
                        "object can be created by exactly one writer; use ext4, xfs or the like"
                    ) from error
        if self.get(key) != body:
            raise AlreadyExistsError(f"{key} already exists in {self.uri} with other content")
        # Also when the bytes were there already: their writer may have died before its own flush.
        _flush_directory(path.parent)

    def put_if_match(self, key: str, body: bytes, etag: str) -> str:
        """Replace if the entity tag is still ``etag``; returns the new tag."""
        path = self._path(key)
        with self._staged(lambda temp: temp.write_bytes(body)) as temp, self._locked(key):
            _, current = self.get_with_etag(key)
            if current != etag:
                raise ConflictError(
                    f"{key} in {self.uri} changed since it was read: expected the entity tag "
                    f"{etag[:12]}, found {current[:12]}; read it again and decide again"
                )
            self._replace(temp, path)
        return hashlib.sha256(body).hexdigest()

    def put_file(
        self,
        key: str,
        path: Path,
        *,
        bytes_per_second: float | None = None,  # noqa: ARG002  no network is spared here
        may_link: bool = False,
    ) -> None:
        """Copy or link a local file in, whole or not at all, durable on return."""
        target = self._path(key)
        bring = _link_or_copy if may_link else shutil.copyfile
        with self._staged(lambda temp: bring(path, temp)) as temp, self._locked(key):
            self._replace(temp, target)

    def get_file(self, key: str, path: Path) -> None:
        """Copy the object to ``path``, which appears whole or not at all. Raises NotFoundError."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temp = path.with_name(f".{path.name}.{_unique_name()}")
        try:
            with self._open(key) as source, temp.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
                target.flush()
                os.fsync(target.fileno())
            temp.replace(path)
        finally:
            temp.unlink(missing_ok=True)

    def exists(self, key: str) -> bool:
        """Whether the key holds an object."""
        return self._path(key).is_file()

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Objects whose key starts with ``prefix + "/"``, in order of their keys."""
        return _walk(self._path(prefix), prefix)

    def delete(self, key: str) -> None:
        """Remove the object; one that is not there is no error."""
        path = self._path(key)
        with self._locked(key):
            try:
                path.unlink()
            except (FileNotFoundError, NotADirectoryError):
                return
            _flush_directory(path.parent)

    def list_versions(self, prefix: str) -> Iterator[ObjectVersion]:
        """What ``list`` has: a directory keeps nothing that was replaced."""
        for info in self.list(prefix):
            yield ObjectVersion(info.key, "", info.size, is_newest=True, is_marker=False)

    def get_version(
        self,
        key: str,
        version: str,  # noqa: ARG002  there is one
        *,
        start: int = 0,
        length: int | None = None,
    ) -> bytes:
        """The bytes or a range of them. Raises NotFoundError."""
        return self.get(key, start=start, length=length)

    def purge(self, key: str, *, keep_newest: bool = False) -> int:
        """Remove the object, unless what can be read stays; returns how many went."""
        if keep_newest or not self.exists(key):
            return 0
        self.delete(key)
        return 1

    def local_path(self, key: str) -> Path | None:
        """The object's own file, to be read only; None when there is none."""
        path = self._path(key)
        return path if path.is_file() else None

    def list_uploads(self, prefix: str) -> Iterator[ObjectInfo]:
        """None: what is not written whole is a temporary file."""
        self._path(prefix)
        return iter(())

    def abort_uploads(self, prefix: str, *, older_than: float) -> int:
        """Remove temporary files of dead writers, whatever they were to become; how many."""
        self._path(prefix)
        return self._remove_leftovers(older_than, _writer_is_dead)

    def _path(self, key: str) -> Path:
        path = self._root.joinpath(*check_key(key).split("/"))
        if not Path(os.path.realpath(path)).is_relative_to(self._root):
            raise ValueError(
                f"the key {key!r} leads out of {self._root} through a symbolic link; remove it"
            )
        return path

    def _open(self, key: str) -> BinaryIO:
        try:
            return self._path(key).open("rb")
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise NotFoundError(f"there is no object {key} in {self.uri}") from error

    @contextlib.contextmanager
    def _staged(self, write: Callable[[Path], object]) -> Generator[Path]:
        """A temporary file that ``write`` has filled, flushed to the disk; removed at the end."""
        temp = self._temp / _unique_name()
        try:
            write(temp)
            with temp.open("rb+") as file:
                os.fsync(file.fileno())
            yield temp
        finally:
            temp.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _locked(self, key: str) -> Generator[None]:
        """Hold the lock of ``key``, one of a fixed set: to remove lock files would be a race."""
        slot = zlib.crc32(key.encode()) % _NUM_LOCKS
        with (self._locks / f"{slot:02d}").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                # Not left to the close: a process forked meanwhile has the descriptor open as well.
                fcntl.flock(file, fcntl.LOCK_UN)

    def _replace(self, temp: Path, path: Path) -> None:
        self._make_parents(path)
        temp.replace(path)
        _flush_directory(path.parent)

    def _make_parents(self, path: Path) -> None:
        """Create the directories above ``path``, durably; each is flushed once a process."""
        if path.parent in self._durable:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        for directory in path.parents:
            if directory == self._root or directory in self._durable:
                break
            _flush_directory(directory.parent)
            self._durable.add(directory)

    def _remove_leftovers(self, oldest: float, may_go: Callable[[Path], bool]) -> int:
        """Remove temporary files from before a time that ``may_go``; returns how many."""
        removed = 0
        for temp in self._temp.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if temp.stat().st_mtime < oldest and may_go(temp):
                    temp.unlink()
                    removed += 1
        return removed


def _writer_is_dead(temp: Path) -> bool:
    """Whether the process that a temporary file is named after has ended."""
    return not Path("/proc", temp.name.partition("-")[0]).exists()


def _walk(directory: Path, prefix: str) -> Iterator[ObjectInfo]:
    try:
        with os.scandir(directory) as entries:
            # A directory sorts as "name/", so that the keys below come in the order of whole keys.
            found = sorted(
                (entry.name + "/" if entry.is_dir(follow_symlinks=False) else entry.name, entry)
                for entry in entries
            )
    except (FileNotFoundError, NotADirectoryError):
        return
    for name, entry in found:
        if name.endswith("/"):
            yield from _walk(Path(entry.path), f"{prefix}/{entry.name}")
        elif entry.is_file(follow_symlinks=False):
            with contextlib.suppress(FileNotFoundError):
                status = entry.stat(follow_symlinks=False)
                yield ObjectInfo(f"{prefix}/{name}", status.st_size, status.st_mtime)


def _link_or_copy(path: Path, temp: Path) -> None:
    try:
        os.link(path, temp)
    except OSError as error:
        if error.errno not in (*_NO_LINKS, errno.EXDEV, errno.EMLINK):
            raise
        shutil.copyfile(path, temp)


def _unique_name() -> str:
    return f"{os.getpid()}-{os.urandom(8).hex()}"


def _flush_directory(directory: Path) -> None:
    """Make the names in ``directory`` survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
