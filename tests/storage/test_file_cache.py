"""The cache of verified files: shared, bounded, and clean after any death."""

import logging
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from storage.errors import CorruptError
from storage.file_cache import FileCache
from storage.local_objects import LocalObjects
from storage.manifest import FileDigest, digest_bytes
from tests.support.killing_store import run_killed


class Remote(LocalObjects):
    """A store without local files, like S3, that says what was downloaded."""

    def __init__(self, root: Path, before: Callable[[], object] = lambda: None) -> None:
        super().__init__(root)
        self.before, self.downloads = before, list[str]()

    def local_path(self, key: str) -> Path | None:  # noqa: ARG002  the protocol's
        return None

    def get_file(self, key: str, path: Path) -> None:
        self.before()
        self.downloads.append(key)
        super().get_file(key, path)


@pytest.fixture
def remote(tmp_path: Path) -> Remote:
    return Remote(tmp_path / "store")


def put(store: LocalObjects, name: str, body: bytes) -> FileDigest:
    store.put(f"p/{name}", body)
    return digest_bytes(body, name)


def files_in(directory: Path) -> list[Path]:
    locks = directory / "locks"
    return sorted(p for p in directory.rglob("*") if p.is_file() and locks not in p.parents)


def num_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_a_file_is_downloaded_once_for_all_workers_of_a_machine(
    remote: Remote, tmp_path: Path
) -> None:
    file = put(remote, "f", b"tokens")
    workers = [FileCache(tmp_path / "cache") for _ in range(6)]
    everyone = threading.Barrier(6)

    def work(cache: FileCache) -> bytes:
        everyone.wait()
        return bytes(cache.open(remote, "p", file))

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(work, workers)) == [b"tokens"] * 6
    assert remote.downloads == ["p/f"]


def test_files_of_a_local_store_are_mapped_where_they_lie(tmp_path: Path) -> None:
    store = LocalObjects(tmp_path / "store")
    file = put(store, "f", b"tokens")
    assert bytes(FileCache(tmp_path / "cache").open(store, "p", file)) == b"tokens"
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("position", [0, 3, 5])
def test_a_flipped_bit_in_the_cache_is_found_at_the_next_open_and_mended(
    remote: Remote, tmp_path: Path, caplog: pytest.LogCaptureFixture, position: int
) -> None:
    file = put(remote, "f", b"tokens")
    FileCache(tmp_path / "cache").open(remote, "p", file)
    [path] = files_in(tmp_path / "cache")
    body = bytearray(path.read_bytes())
    body[position] ^= 1
    path.write_bytes(body)
    with caplog.at_level(logging.WARNING):
        assert bytes(FileCache(tmp_path / "cache").open(remote, "p", file)) == b"tokens"
    assert "the cached copy of p/f was altered and has been fetched again" in caplog.text
    assert path.read_bytes() == b"tokens"
    assert remote.downloads == ["p/f"] * 2


@pytest.mark.parametrize("cut", [0, 3])
def test_a_short_file_in_the_cache_is_fetched_again(
    remote: Remote, tmp_path: Path, cut: int
) -> None:
    file = put(remote, "f", b"tokens")
    FileCache(tmp_path / "cache").open(remote, "p", file)
    [path] = files_in(tmp_path / "cache")
    os.truncate(path, cut)
    assert bytes(FileCache(tmp_path / "cache").open(remote, "p", file)) == b"tokens"


@pytest.mark.parametrize("is_local", [True, False])
@pytest.mark.parametrize(
    ("body", "complaint"),
    [(b"tokenz", "p/f was altered"), (b"tok", "p/f has 3 bytes"), (b"", "p/f has 0 bytes")],
)
def test_what_the_store_itself_has_altered_is_refused_by_name_and_not_kept(
    tmp_path: Path, is_local: bool, body: bytes, complaint: str
) -> None:
    store = LocalObjects(tmp_path / "store") if is_local else Remote(tmp_path / "store")
    put(store, "f", body)
    cache = FileCache(tmp_path / "cache")
    with pytest.raises(CorruptError, match=complaint):
        cache.open(store, "p", digest_bytes(b"tokens", "f"))
    assert files_in(tmp_path / "cache") == []


@pytest.mark.parametrize("is_local", [True, False])
def test_a_file_that_is_not_there_is_named(tmp_path: Path, is_local: bool) -> None:
    store = LocalObjects(tmp_path / "store") if is_local else Remote(tmp_path / "store")
    with pytest.raises(CorruptError, match="p/f is missing, its manifest promises 6 bytes"):
        FileCache(tmp_path / "cache").open(store, "p", digest_bytes(b"tokens", "f"))


@pytest.mark.parametrize("digest", ["../../../../etc/passwd", "A" * 64, ""])
def test_a_digest_cannot_lead_out_of_the_cache(remote: Remote, tmp_path: Path, digest: str) -> None:
    remote.put("p/f", b"tokens")
    with pytest.raises(CorruptError, match="must give its SHA-256 in 64 hex digits"):
        FileCache(tmp_path / "cache").open(remote, "p", FileDigest("f", 6, digest))


def test_the_cache_keeps_to_its_size_and_drops_what_was_opened_longest_ago(
    remote: Remote, tmp_path: Path
) -> None:
    files = [put(remote, f"f{number}", os.urandom(1000)) for number in range(40)]
    limit = 10_000
    for number, file in enumerate(files):
        # A worker of its own each time: its map of the first file does not hide the cached copy.
        cache = FileCache(tmp_path / "cache", max_bytes=limit)
        cache.open(remote, "p", file)
        cache.open(remote, "p", files[0])
        kept = files_in(tmp_path / "cache")
        assert sum(path.stat().st_size for path in kept) <= limit
        for age, path in enumerate([path for path in kept if path.name != files[0].sha256]):
            # The clock of a file system may not tick between two files.
            at = 1e9 + age
            os.utime(path, (at, at))
        assert {path.name for path in kept} >= {files[0].sha256, file.sha256}, number
    assert remote.downloads.count("p/f0") == 1


def test_one_worker_keeps_to_the_size_as_well(remote: Remote, tmp_path: Path) -> None:
    cache = FileCache(tmp_path / "cache", max_bytes=20_000)
    for number in range(60):
        file = put(remote, f"f{number}", os.urandom(1000))
        body = cache.open(remote, "p", file)
        assert sum(path.stat().st_size for path in files_in(tmp_path / "cache")) <= 20_000
        assert digest_bytes(bytes(body), file.name) == file


def test_what_was_mapped_stays_readable_when_the_cache_drops_it(
    remote: Remote, tmp_path: Path
) -> None:
    cache = FileCache(tmp_path / "cache", max_bytes=1)
    first = cache.open(remote, "p", put(remote, "a", b"first"))
    cache.open(remote, "p", put(remote, "b", b"second"))
    assert [path.read_bytes() for path in files_in(tmp_path / "cache")] == [b"second"]
    assert bytes(first) == b"first"


def test_no_more_files_are_mapped_than_descriptors_allow(
    remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (20, 20))
    cache = FileCache(tmp_path / "cache")
    before = num_descriptors()
    for number in range(30):
        cache.open(remote, "p", put(remote, f"f{number}", b"%d" % number))
    # Five maps, and the lock of the staging folder.
    assert num_descriptors() - before <= 6
    assert cache.num_closed == 25
    assert bytes(cache.open(remote, "p", digest_bytes(b"0", "f0"))) == b"0"


def test_a_full_disk_empties_the_cache_and_the_download_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def full() -> None:
        if files_in(tmp_path / "cache"):
            raise OSError(28, "No space left on device")

    store = Remote(tmp_path / "store", full)
    cache = FileCache(tmp_path / "cache")
    cache.open(store, "p", put(store, "a", b"first"))
    assert bytes(cache.open(store, "p", put(store, "b", b"second"))) == b"second"
    assert "is full: emptying the cache" in caplog.text


class Dying(Remote):
    """Its process is killed in the middle of a download."""

    def get_file(self, key: str, path: Path) -> None:  # noqa: ARG002  the protocol's
        path.write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_hundred_workers_killed_while_they_download_leave_nothing(
    remote: Remote, tmp_path: Path
) -> None:
    file, cache = put(remote, "f", b"tokens"), tmp_path / "cache"
    for _ in range(100):
        dying = Dying(tmp_path / "store")
        ended = run_killed(lambda dying=dying: FileCache(cache).open(dying, "p", file))
        assert ended.killed, ended.error
        # What the last one was at; those that came before it were tidied up after.
        [half] = files_in(cache)
        assert half.parent.parent.name == "staging"
    assert bytes(FileCache(cache).open(remote, "p", file)) == b"tokens"
    assert [path.read_bytes() for path in files_in(cache)] == [b"tokens"]
    assert list((cache / "staging").iterdir()) == []


def test_a_worker_does_not_remove_what_another_is_downloading(tmp_path: Path) -> None:
    first = FileCache(tmp_path / "cache")
    other = Remote(tmp_path / "store")
    other_file = put(other, "g", b"other")

    def meanwhile() -> None:
        FileCache(tmp_path / "cache").open(other, "p", other_file)

    store = Remote(tmp_path / "store", meanwhile)
    assert bytes(first.open(store, "p", put(store, "f", b"tokens"))) == b"tokens"
