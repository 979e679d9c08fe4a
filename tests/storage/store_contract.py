"""What every ObjectStore must do: subclass ``StoreContract`` and give a fixture ``store``."""

import multiprocessing
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import pytest

from storage.errors import AlreadyExistsError, ConflictError, NotFoundError
from storage.objects import ObjectStore, open_store, probe

NUM_WRITERS = 16
NUM_RACES = 8
NUM_COUNTERS = 4
NUM_COUNTS = 25


class _Start(Protocol):
    def wait(self) -> int: ...


def _body(writer: int) -> bytes:
    return f"writer {writer}".encode() * 1000


def _create_all(store: ObjectStore, writer: int, start: _Start) -> list[bool]:
    """Which of the races this writer won; all writers enter each race together."""
    won: list[bool] = []
    for number in range(NUM_RACES):
        start.wait()
        try:
            store.put_if_absent(f"race/{number}", _body(writer))
        except AlreadyExistsError:
            won.append(False)
        else:
            won.append(True)
    return won


def _count_up(store: ObjectStore, start: _Start) -> None:
    start.wait()
    for _ in range(NUM_COUNTS):
        while True:
            body, etag = store.get_with_etag("counter")
            try:
                store.put_if_match("counter", str(int(body) + 1).encode(), etag)
            except ConflictError:
                continue
            break


def in_threads(fn: Callable[[int, _Start], Any], writers: int) -> list[Any]:
    start = threading.Barrier(writers, timeout=60)
    with ThreadPoolExecutor(writers) as pool:
        return list(pool.map(lambda writer: fn(writer, start), range(writers)))


def in_processes(fn: Callable[[int, _Start], Any], writers: int) -> list[Any]:
    context = multiprocessing.get_context("fork")
    start, answers = context.Barrier(writers, timeout=60), context.SimpleQueue()

    def answer(writer: int) -> None:
        found = None
        try:
            found = fn(writer, start)
        finally:
            # Also when it fails: nobody shall wait for ever.
            answers.put((writer, found))

    processes = [context.Process(target=answer, args=(writer,)) for writer in range(writers)]
    for process in processes:
        process.start()
    found = dict(answers.get() for _ in processes)
    for process in processes:
        process.join()
        assert process.exitcode == 0
    return [found[writer] for writer in range(writers)]


RUNNERS = pytest.mark.parametrize("run", [in_threads, in_processes])


class StoreContract:
    """Subclasses give a fixture ``store``: an empty store that ``open_store(store.uri)`` finds."""

    def test_it_passes_its_own_probe_and_the_probe_leaves_nothing(self, store: ObjectStore) -> None:
        probe(store)
        assert list(store.list("probe")) == []

    def test_what_was_put_is_got(self, store: ObjectStore) -> None:
        store.put("a/b", b"one")
        store.put("a/b", b"two")
        assert store.get("a/b") == b"two"
        assert store.exists("a/b")

    def test_what_is_purged_is_gone_and_nothing_beside_it(self, store: ObjectStore) -> None:
        for body in (b"one", b"two"):
            store.put("a/b", body)
        store.put("a/bc", b"beside")
        newest = [found for found in store.list_versions("a") if found.is_newest]
        assert [(found.key, found.size) for found in newest] == [("a/b", 3), ("a/bc", 6)]
        assert store.get_version("a/b", newest[0].version) == b"two"
        assert store.get_version("a/b", newest[0].version, start=1, length=1) == b"w"
        store.purge("a/b", keep_newest=True)
        assert store.get("a/b") == b"two"
        assert store.purge("a/b") == 1
        assert store.purge("a/b") == 0
        assert [found.key for found in store.list_versions("a")] == ["a/bc"]
        with pytest.raises(NotFoundError):
            store.get_version("a/b", newest[0].version)

    @pytest.mark.parametrize("key", ["missing", "a", "a/b/c"])
    def test_an_absent_object_is_not_found(self, store: ObjectStore, key: str) -> None:
        store.put("a/b", b"one")
        assert not store.exists(key)
        with pytest.raises(NotFoundError, match=key):
            store.get(key)
        with pytest.raises(NotFoundError, match=key):
            store.get_with_etag(key)

    def test_ranges_are_cut_at_the_end(self, store: ObjectStore) -> None:
        store.put("a", b"0123456789")
        assert store.get("a", start=3) == b"3456789"
        assert store.get("a", start=3, length=4) == b"3456"
        assert store.get("a", start=8, length=100) == b"89"
        assert store.get("a", start=10, length=1) == b""
        assert store.get("a", length=0) == b""

    def test_the_same_bytes_may_be_created_again_but_no_others(self, store: ObjectStore) -> None:
        store.put_if_absent("a", b"one")
        store.put_if_absent("a", b"one")
        with pytest.raises(AlreadyExistsError, match="a already exists"):
            store.put_if_absent("a", b"two")
        assert store.get("a") == b"one"

    def test_put_if_match_wants_the_current_tag(self, store: ObjectStore) -> None:
        with pytest.raises(NotFoundError, match="there is no object a"):
            store.put_if_match("a", b"one", "tag")
        store.put("a", b"one")
        _, first = store.get_with_etag("a")
        second = store.put_if_match("a", b"two", first)
        assert store.get_with_etag("a") == (b"two", second)
        with pytest.raises(ConflictError, match="changed since it was read"):
            store.put_if_match("a", b"three", first)
        with pytest.raises(ConflictError, match="changed since it was read"):
            store.put_if_match("a", b"two", first)

    def test_a_listing_is_in_the_order_of_keys(self, store: ObjectStore) -> None:
        keys = ["p/a", "p/a-b", "p/a.b", "p/a/c", "p/a/d/e", "p/a0", "p/b", "p2/a", "p/Z", "p/é"]
        keys.remove("p/a")
        for key in keys:
            store.put(key, key.encode())
        listed = list(store.list("p"))
        assert [info.key for info in listed] == sorted(k for k in keys if k.startswith("p/"))
        assert all(info.size == len(info.key.encode()) for info in listed)
        assert list(store.list("absent")) == []

    def test_delete_removes_and_may_be_repeated(self, store: ObjectStore) -> None:
        store.put("a/b", b"one")
        store.delete("a/b")
        store.delete("a/b")
        store.delete("never/was")
        assert not store.exists("a/b")
        assert list(store.list("a")) == []

    def test_a_large_file_makes_the_round_trip(self, store: ObjectStore, tmp_path: Path) -> None:
        source = tmp_path / "source"
        source.write_bytes(bytes(range(256)) * (20 << 12))
        store.put_file("big", source)
        target = tmp_path / "new" / "target"
        store.get_file("big", target)
        assert target.read_bytes() == source.read_bytes()
        assert [path.name for path in target.parent.iterdir()] == ["target"]
        assert store.get("big", start=12_345_678, length=2) == bytes([78, 79])

    def test_a_local_path_if_any_holds_the_object(self, store: ObjectStore) -> None:
        store.put("a", b"one")
        path = store.local_path("a")
        assert path is None or path.read_bytes() == b"one"
        assert store.local_path("absent") is None

    @pytest.mark.parametrize(
        "key", ["", "/a", "a//b", "a/", "../a", "a/../b", "a/./b", ".", "a\0b"]
    )
    def test_a_key_that_is_no_plain_path_is_refused(self, store: ObjectStore, key: str) -> None:
        with pytest.raises(ValueError, match="not a valid key"):
            store.put(key, b"one")
        with pytest.raises(ValueError, match="not a valid key"):
            store.get(key)

    @RUNNERS
    def test_of_racing_writers_one_creates_the_object(
        self, store: ObjectStore, run: Callable[..., list[list[bool]]]
    ) -> None:
        won = run(
            lambda writer, start: _create_all(open_store(store.uri), writer, start), NUM_WRITERS
        )
        for number in range(NUM_RACES):
            winners = [writer for writer in range(NUM_WRITERS) if won[writer][number]]
            assert len(winners) == 1
            assert store.get(f"race/{number}") == _body(winners[0])

    @RUNNERS
    def test_a_counter_loses_nothing(
        self, store: ObjectStore, run: Callable[..., list[None]]
    ) -> None:
        store.put("counter", b"0")
        run(lambda _, start: _count_up(open_store(store.uri), start), NUM_COUNTERS)
        assert int(store.get("counter")) == NUM_COUNTERS * NUM_COUNTS
