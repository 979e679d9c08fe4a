"""Kill -9 before every write of a takedown: what is read is whole, and a second run ends it."""

import io
import shutil
from pathlib import Path
from typing import Any, cast

import pyarrow.parquet as pq
import pytest

from storage.file_cache import FileCache
from storage.gc import find_garbage
from storage.lease import Lease
from storage.local_objects import LocalObjects
from storage.manifest import read_verified
from storage.objects import ObjectStore
from storage.snapshots import read_snapshot
from storage.suite import read_suite
from storage.takedowns import begun_takedowns, check_no_takedown
from tasks.forget.forget import Forecast, Site, begin, finish, foresee, unfinished
from tests.support.killing_store import KillingObjects, run_killed
from tests.tasks.forget.scene import LAYOUT, Scene, files_with, spellings, words
from training.data.shards import MdsReader, read_holdout

_WRITES = (
    "put", "put_if_absent", "put_if_match", "put_file", "delete", "purge", "abort_uploads",
)  # fmt: skip


class _Noting:
    """Passes everything on, and notes which operations of a ``KillingObjects`` around it write."""

    def __init__(self, inner: ObjectStore) -> None:
        self._inner = inner
        self.around = KillingObjects(cast("ObjectStore", self))
        self.writes: list[int] = []

    def __getattr__(self, name: str) -> Any:
        if name in _WRITES:
            self.writes.append(self.around.operations)
        return getattr(self._inner, name)


def _forget(scene: Scene, store: ObjectStore, forecast: Forecast) -> None:
    """What a person does who starts the command again until it ends."""
    site = Site(store, LAYOUT, scene.near, scene.work)
    with Lease.acquire(store, LAYOUT, "test") as lease:
        begun = unfinished(site)
        if not begun and not any(store.list(LAYOUT.done_takedowns)):
            begun = [begin(site, lease, forecast, by="test")]
        for takedown in begun:
            finish(site, lease, takedown, by="test")


def _check_whole(store: ObjectStore, folder: Path) -> None:
    """Read everything that a reader can find from the head on."""
    scene = Scene(store, folder)
    for record in scene.head.snapshots:
        manifest = read_snapshot(store, LAYOUT, record.id)
        for file in manifest.files:
            read_verified(store, LAYOUT.snapshot(record.id), file)
    assert scene.head.suite is not None
    for item in read_suite(store, LAYOUT, scene.head.suite).slices:
        prefix, cache = LAYOUT.snapshot(item.snapshot), FileCache(folder / "reading")
        reader = MdsReader(store, prefix, f"{item.domain}/holdout", item.files, cache)
        assert len(read_holdout(reader, token_dtype="uint16")) == item.documents


def _contents(store: ObjectStore) -> dict[str, object]:
    """What every object holds, but for who wrote it when."""
    found: dict[str, object] = {}
    for info in store.list(LAYOUT.root):
        body = store.get(info.key)
        if info.key.endswith(".parquet"):
            found[info.key] = pq.read_table(io.BytesIO(body)).to_pydict()
        elif not info.key.endswith(("lease.json", "head.json")) and "/takedowns/" not in info.key:
            found[info.key] = body if "/heads/" not in info.key else None
    return found


def test_a_takedown_that_is_killed_anywhere_is_ended_by_a_second_run(tmp_path: Path) -> None:
    scene = Scene(LocalObjects(tmp_path / "store"), tmp_path)
    texts = {f"d{n}": words(n, num_words=40) for n in range(12)}
    scene.write("1.jsonl", texts)
    first = scene.refresh().snapshot
    names = [scene.split_of(first, split)[0] for split in ("train", "holdout")]
    needles = [piece for name in names for piece in spellings(texts[name], scene.tokenizer)]
    forecast = foresee(scene.site, scene.head, ids=names, texts=[])
    shutil.copytree(tmp_path / "store", tmp_path / "whole")
    whole = LocalObjects(tmp_path / "whole")
    noting = _Noting(whole)
    _forget(scene, noting.around, forecast)
    expected = _contents(whole)
    points = [{"kill_before": number} for number in noting.writes]
    points.append({"kill_after": noting.writes[-1]})
    assert len(points) > 25
    begun = 0
    for number, point in enumerate(points):
        folder = tmp_path / f"killed-{number}"
        shutil.copytree(tmp_path / "store", folder)
        store = LocalObjects(folder)
        end = run_killed(lambda s=store, p=point: _forget(scene, KillingObjects(s, **p), forecast))
        assert end.killed, f"{point}: {end}"
        _check_whole(store, tmp_path)
        if begun_takedowns(store, LAYOUT):
            begun += 1
            with pytest.raises(ValueError, match="was begun and is not done"):
                check_no_takedown(store, LAYOUT)
        _forget(scene, store, forecast)
        check_no_takedown(store, LAYOUT)
        assert _contents(store) == expected, point
        assert files_with(folder, needles) == [], point
        assert find_garbage(store, LAYOUT, grace_seconds=0, now=9e12) == [], point
        shutil.rmtree(folder)
    assert begun > len(points) // 2
