import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from storage.errors import UnsafeStoreError
from storage.local_objects import LocalObjects
from storage.objects import ObjectStore, open_store, probe
from tests.storage.store_contract import StoreContract
from tests.support.killing_store import ExitInfo, KillingObjects, run_killed


@pytest.fixture
def store(tmp_path: Path) -> LocalObjects:
    return LocalObjects(tmp_path / "store")


class TestLocalObjects(StoreContract):
    """The contract on a directory."""


def _die_at(number: int, fn: Callable[[], object]) -> ExitInfo:
    """Run ``fn`` in a process that is killed before its n-th call that touches the disk's names."""

    def run() -> None:
        calls = 0

        def dying(inner: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                return inner(*args, **kwargs)

            return call

        for name in ("fsync", "link"):
            setattr(os, name, dying(getattr(os, name)))
        for name in ("replace", "unlink", "write_bytes"):
            setattr(Path, name, dying(getattr(Path, name)))
        fn()

    return run_killed(run)


@pytest.mark.parametrize("verb", ["put", "put_if_match", "put_file", "put_if_absent"])
def test_a_writer_killed_anywhere_leaves_the_old_or_the_new(verb: str, tmp_path: Path) -> None:
    old, new = b"old" * 50_000, b"new" * 70_000
    source = tmp_path / "source"
    source.write_bytes(new)
    survived = False
    number = 0
    while not survived:
        number += 1
        store = LocalObjects(tmp_path / f"{verb}-{number}")
        if verb != "put_if_absent":
            store.put("deep/key", old)
        _, etag = store.get_with_etag("deep/key") if store.exists("deep/key") else (b"", "")
        writes: dict[str, Callable[[], object]] = {
            "put": lambda store=store: store.put("deep/key", new),
            "put_if_absent": lambda store=store: store.put_if_absent("deep/key", new),
            "put_if_match": lambda store=store, etag=etag: store.put_if_match(
                "deep/key", new, etag
            ),
            "put_file": lambda store=store: store.put_file("deep/key", source),
        }
        end = _die_at(number, writes[verb])
        assert end.killed or end.code == 0, end.error
        survived = not end.killed
        found = [info.key for info in store.list("deep")]
        if found:
            assert store.get("deep/key") in ((old, new) if verb != "put_if_absent" else (new,))
        else:
            assert verb == "put_if_absent"
        if survived:
            assert store.get("deep/key") == new
        # No lock stays behind: the next writer gets through.
        store.put("deep/key", b"after")
    assert number > 3


def test_temporary_files_of_dead_writers_are_removed_after_a_day(tmp_path: Path) -> None:
    LocalObjects(tmp_path)
    temp = tmp_path / ".perennial" / "tmp"
    (temp / "old").write_bytes(b"x")
    (temp / "young").write_bytes(b"x")
    os.utime(temp / "old", (0.0, time.time() - 25 * 3600))
    LocalObjects(tmp_path)
    assert [path.name for path in temp.iterdir()] == ["young"]


def test_private_files_are_neither_listed_nor_reachable(store: LocalObjects) -> None:
    with pytest.raises(ValueError, match="not a valid key"):
        store.put(".perennial/tmp/x", b"x")
    with pytest.raises(ValueError, match="not a valid key"):
        store.list(".perennial")


def test_a_symbolic_link_out_of_the_root_is_refused(store: LocalObjects, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    root = tmp_path / "store"
    (root / "directory").symlink_to(outside)
    (root / "file").symlink_to(outside / "secret")
    for key in ("directory/secret", "directory/new", "file"):
        with pytest.raises(ValueError, match="leads out of"):
            store.get(key)
        with pytest.raises(ValueError, match="leads out of"):
            store.put(key, b"x")
    assert (outside / "secret").read_bytes() == b"secret"


def test_a_negative_range_is_refused(store: LocalObjects) -> None:
    store.put("a", b"x")
    with pytest.raises(ValueError, match="at least 0"):
        store.get("a", start=-1)


def test_put_file_copies_so_that_the_source_may_change(store: LocalObjects, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"one")
    store.put_file("a", source)
    with source.open("r+b") as file:
        file.write(b"two")
    assert store.get("a") == b"one"


@pytest.mark.parametrize(
    "uri", ["https://bucket/x", "file://host/x", "file:relative", "/plain", ""]
)
def test_open_store_refuses_what_it_cannot_open(uri: str) -> None:
    with pytest.raises(ValueError, match="expected file:///"):
        open_store(uri)


def test_open_store_finds_the_same_store_by_its_uri(tmp_path: Path) -> None:
    store = open_store((tmp_path / "with blank").as_uri())
    store.put("a", b"one")
    assert open_store(store.uri).get("a") == b"one"


class _Overwriting(KillingObjects):
    def __init__(self, inner: ObjectStore, ignored: str) -> None:
        super().__init__(inner)
        self._ignored = ignored

    def put_if_absent(self, key: str, body: bytes) -> None:
        if self._ignored == "put-if-absent":
            self.put(key, body)
        else:
            super().put_if_absent(key, body)

    def put_if_match(self, key: str, body: bytes, etag: str) -> str:
        if self._ignored == "put-if-match":
            self.put(key, body)
            return "tag"
        return super().put_if_match(key, body, etag)


def test_a_probe_removes_what_a_killed_probe_left_a_day_ago(
    store: LocalObjects, tmp_path: Path
) -> None:
    store.put("probe/old", b"first")
    store.put("probe/young", b"first")
    os.utime(tmp_path / "store" / "probe" / "old", (0.0, time.time() - 25 * 3600))
    probe(store)
    assert [info.key for info in store.list("probe")] == ["probe/young"]


@pytest.mark.parametrize("ignored", ["put-if-absent", "put-if-match"])
def test_a_store_that_ignores_conditions_is_refused(store: LocalObjects, ignored: str) -> None:
    with pytest.raises(UnsafeStoreError, match=f"second writer win: {ignored}"):
        probe(_Overwriting(store, ignored))
    assert list(store.list("probe")) == []


class _RefusingTags(KillingObjects):
    """As a server does that wants entity tags in another form than we send."""

    def put_if_match(self, key: str, body: bytes, etag: str) -> str:
        return super().put_if_match(key, body, f"not {etag}")


def test_a_store_that_never_takes_a_tag_is_refused(store: LocalObjects) -> None:
    with pytest.raises(UnsafeStoreError, match="refuses put-if-match with the entity tag that it"):
        probe(_RefusingTags(store))
    assert list(store.list("probe")) == []


def test_heads_leases_and_objects_load_without_heavy_libraries() -> None:
    heavy = {"boto3", "numpy", "pyarrow", "mlflow", "pydantic", "torch", "prefect"}
    code = (
        "import sys, storage.head, storage.lease, storage.objects;"
        f"print({heavy!r} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"
