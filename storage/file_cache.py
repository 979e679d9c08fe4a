"""Verified files of a store, mapped into memory; those of a remote store through a local cache.

A cache is a directory that all workers of a machine share, and that any of them may be killed in::

    <first 2 digits>/<sha256>    whole files, under the hash of their content
    staging/<worker>/            what one worker is downloading; it holds a lock on its folder
    locks/                       one file a group of hashes, so that two do not download the same

Nothing is trusted because it is there: a file's hash is checked each time it is mapped, through the
very mapping that is then read.
"""

import contextlib
import errno
import fcntl
import hashlib
import logging
import mmap
import os
import resource
import shutil
import threading
import weakref
from collections import OrderedDict
from collections.abc import Generator
from pathlib import Path

from storage.errors import CorruptError, NotFoundError
from storage.manifest import FileDigest, check_digest, check_found
from storage.objects import ObjectStore

logger = logging.getLogger(__name__)

_STAGING, _LOCKS = "staging", "locks"
_MAX_MAPS = 1024
_SHARE_OF_DESCRIPTORS = 4
_SHARE_OF_ROOM = 8


class FileCache:
    """Opens files by their digests. Safe for many threads and processes at once.

    Args:
        directory: Created if need be; what dead workers were downloading into it is removed.
        max_bytes: Of all files in it. When not given, half of what the file system could hold
            without them. The files that were opened longest ago go first; one that a worker has
            mapped stays readable to that worker, and takes its room until then.
    """

    def __init__(self, directory: Path, *, max_bytes: int | None = None) -> None:
        self._directory, self._max_bytes = directory, max_bytes
        self.num_closed = 0
        """Maps that made room for others; their memory is free when nobody holds them any more."""
        self._maps: OrderedDict[str, mmap.mmap] = OrderedDict()
        self._guard = threading.Lock()
        # A map holds a descriptor, and the process needs some for other things.
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // _SHARE_OF_DESCRIPTORS
        self._max_maps = max(1, min(_MAX_MAPS, most))
        self._staging: Path | None = None
        self._bytes_until_scan = 0

    def open(self, store: ObjectStore, prefix: str, file: FileDigest) -> mmap.mmap:
        """The object's bytes, mapped, read-only; its hash is checked unless it is mapped already.

        A file of a local store is mapped where it lies. A cached copy that was altered is fetched
        again. What changes on the disk after this check is not seen: nothing here writes to a file
        that has its name, so that takes a failing disk or another program.

        Raises:
            CorruptError: The store's object is missing, short or altered.
        """
        with self._guard:
            mapped = self._maps.get(file.sha256)
            if mapped is not None:
                self._maps.move_to_end(file.sha256)
                return mapped
        key = f"{prefix}/{file.name}"
        local = store.local_path(key)
        if local is None:
            mapped = self._cached(store, key, file)
        else:
            # The size first: an empty file cannot be mapped.
            check_found(key, file, local.stat().st_size)
            mapped, found = _map(local, file.name)
            check_digest(key, file, found)
        with self._guard:
            mapped = self._maps.setdefault(file.sha256, mapped)
            if len(self._maps) > self._max_maps:
                self._maps.popitem(last=False)
                self.num_closed += 1
        return mapped

    def _cached(self, store: ObjectStore, key: str, file: FileDigest) -> mmap.mmap:
        path = self._path(key, file)
        staging = self._own_staging()
        mapped = _map_if_good(path, file)
        if mapped is None:
            with self._locked(file.sha256[:2]):
                # Another worker may have fetched it while this one waited.
                mapped = _map_if_good(path, file)
                if mapped is None:
                    staged = staging / file.sha256
                    self._make_room(file.size)
                    self._download(store, key, file, staged)
                    mapped = _checked(key, file, staged)
                    _warn_of_altered(key, path)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    staged.replace(path)
        with contextlib.suppress(FileNotFoundError):
            os.utime(path)
        return mapped

    def _download(self, store: ObjectStore, key: str, file: FileDigest, staged: Path) -> None:
        try:
            store.get_file(key, staged)
        except NotFoundError:
            check_found(key, file, None)
            raise
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            logger.warning("the disk of %s is full: emptying the cache", self._directory)
            self._remove_oldest()
            store.get_file(key, staged)

    def _path(self, key: str, file: FileDigest) -> Path:
        digest = file.sha256
        if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            raise CorruptError(
                f"the manifest of {key} must give its SHA-256 in 64 hex digits, found {digest!r}; "
                "restore it from a copy"
            )
        return self._directory / digest[:2] / digest

    def _own_staging(self) -> Path:
        """This worker's folder, which the kernel unlocks when the worker dies, however it does."""
        with self._guard:
            if self._staging is None:
                with self._locked(_STAGING):
                    self._staging, lock = _new_staging(self._directory / _STAGING)
                weakref.finalize(self, _remove_staging, self._staging, lock)
            return self._staging

    def _make_room(self, needed: int) -> None:
        """Look now and then whether the cache outgrows its limit.

        Not every time, because that lists all files; other workers fetch meanwhile, hence the
        share. What is removed then leaves room for a while.
        """
        with self._guard:
            self._bytes_until_scan -= needed
            if self._bytes_until_scan >= 0:
                return
        with self._locked(_LOCKS):
            total = sum(size for _, size, _ in self._files())
            limit = self._max_bytes
            if limit is None:
                limit = (shutil.disk_usage(self._directory).free + total) // 2
            room = limit - total - needed
            if room < 0:
                room += self._remove_oldest(limit // _SHARE_OF_ROOM - room)
        with self._guard:
            self._bytes_until_scan = max(0, room) // _SHARE_OF_ROOM

    def _remove_oldest(self, num_bytes: int | None = None) -> int:
        """Remove so much, or all, beginning with what was opened longest ago; returns the bytes."""
        removed = 0
        for _, size, path in sorted(self._files()):
            if num_bytes is not None and removed >= num_bytes:
                break
            path.unlink(missing_ok=True)
            removed += size
        return removed

    def _files(self) -> Generator[tuple[float, int, Path]]:
        """When each cached file was opened last, its bytes and its path."""
        for path in self._directory.glob("[0-9a-f][0-9a-f]/*"):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                yield status.st_mtime, status.st_size, path

    @contextlib.contextmanager
    def _locked(self, name: str) -> Generator[None]:
        locks = self._directory / _LOCKS
        locks.mkdir(parents=True, exist_ok=True)
        with (locks / name).open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                yield
            finally:
                # Not left to the close: a process forked meanwhile has the descriptor open as well.
                fcntl.flock(lock, fcntl.LOCK_UN)


def _new_staging(parent: Path) -> tuple[Path, int]:
    """A fresh folder below ``parent`` and its locked descriptor; removes those of dead workers."""
    parent.mkdir(parents=True, exist_ok=True)
    for folder in parent.iterdir():
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
        except BlockingIOError:
            continue
        finally:
            os.close(descriptor)
    folder = parent / f"{os.getpid()}-{os.urandom(8).hex()}"
    folder.mkdir()
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return folder, descriptor


def _remove_staging(folder: Path, descriptor: int) -> None:
    # A fork ends with the same folder in its hands, which is still its parent's.
    if folder.name.startswith(f"{os.getpid()}-"):
        shutil.rmtree(folder, ignore_errors=True)
    os.close(descriptor)


def _checked(key: str, file: FileDigest, staged: Path) -> mmap.mmap:
    """What was downloaded, mapped; removes what is not what the manifest promises."""
    try:
        check_found(key, file, staged.stat().st_size)
        mapped, found = _map(staged, file.name)
        check_digest(key, file, found)
    except CorruptError:
        staged.unlink()
        raise
    return mapped


def _warn_of_altered(key: str, path: Path) -> None:
    if path.exists():
        logger.warning("the cached copy of %s was altered and has been fetched again", key)


def _map(path: Path, name: str) -> tuple[mmap.mmap, FileDigest]:
    """A read-only map of a file that is not empty, and the digest of its bytes as mapped."""
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return mapped, FileDigest(name, len(mapped), hashlib.sha256(mapped).hexdigest())


def _map_if_good(path: Path, file: FileDigest) -> mmap.mmap | None:
    try:
        # Compared first: an empty file cannot be mapped.
        if path.stat().st_size != file.size:
            return None
        mapped, found = _map(path, file.name)
    except FileNotFoundError:
        return None
    return mapped if found == file else None
