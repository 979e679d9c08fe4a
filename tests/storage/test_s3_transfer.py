"""Large files; tests/integration/test_s3*.py send them to a real server."""

import os
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from storage.errors import AccessError
from storage.gc import abort_unfinished, find_unfinished
from storage.layout import Layout
from storage.objects import ObjectStore, open_store
from storage.s3_bucket import Bucket
from storage.s3_client import current_client
from storage.s3_transfer import Pace, _part_bytes_of
from tests.storage.made_up_s3 import answer, answer_by


@pytest.fixture
def store(bucket: str) -> ObjectStore:
    return open_store(f"s3://{bucket}/prefix")


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is sent in three parts."""
    monkeypatch.setattr("storage.s3_transfer.PART_BYTES", 5 << 20)
    path = tmp_path / "large"
    path.write_bytes(random.Random(1).randbytes(11 << 20))
    return path


def test_a_file_that_changes_while_it_is_uploaded_is_refused(
    store: ObjectStore, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Bucket.run

    def grow(self: Bucket, what: str, attempt: Callable[[Any], Any]) -> Any:
        if what.startswith("upload part 2"):
            with large.open("ab") as file:
                file.write(b"more")
        return run(self, what, attempt)

    monkeypatch.setattr(Bucket, "run", grow)
    with pytest.raises(ValueError, match="large changed while it was uploaded"):
        store.put_file("a", large)
    assert not store.exists("a")
    assert store.abort_uploads("a", older_than=9e12) == 0


def test_a_disk_that_takes_a_part_of_a_write_is_given_the_rest(
    store: ObjectStore, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put_file("large", large)
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, body, start: pwrite(fd, body[: 3 << 20], start))
    store.get_file("large", large.with_name("copy"))
    assert large.with_name("copy").read_bytes() == large.read_bytes()


def test_an_upload_that_somebody_dropped_is_told_as_such(
    store: ObjectStore, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise answer("NoSuchUpload", 404)

    answer_by(monkeypatch, "complete_multipart_upload", refuse)
    with pytest.raises(AccessError, match=r"end the upload of deep/a .* was dropped before it"):
        store.put_file("deep/a", large)
    assert not store.exists("deep/a")


def test_an_upload_that_may_not_be_dropped_is_not_counted_as_dropped(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    current_client().create_multipart_upload(Bucket="bucket", Key="prefix/deep/a")

    def refuse(*_: object) -> None:
        raise answer("AccessDenied", 403)

    answer_by(monkeypatch, "abort_multipart_upload", refuse)
    with pytest.raises(AccessError, match=r"drop the upload of prefix/deep/a .* may not do this"):
        store.abort_uploads("deep", older_than=9e12)


def test_gc_lists_the_uploads_that_it_drops(store: ObjectStore) -> None:
    client, layout = current_client(), Layout("demo")
    keys = [f"{layout.update('u1')}/x", layout.model("1-a"), "lineages/other/x"]
    for key in keys:
        client.create_multipart_upload(Bucket="bucket", Key=f"prefix/{key}")
    # The server that is made up says that all uploads began in 2010.
    begun = {info.modified_at for info in store.list_uploads("lineages")}
    for act, expected in ((find_unfinished, []), (abort_unfinished, 0)):
        assert act(store, layout, grace_seconds=60, now=min(begun) + 60) == expected
    for act, expected in ((find_unfinished, sorted(keys[:2])), (abort_unfinished, 2)):
        assert act(store, layout, grace_seconds=60, now=max(begun) + 61) == expected
    assert [info.key for info in store.list_uploads("lineages")] == keys[2:]


@pytest.mark.parametrize("size", [17 << 20, 100 << 30, 5 << 40])
def test_parts_are_few_enough_for_s3(size: int) -> None:
    part_bytes = _part_bytes_of(size)
    assert -(-size // part_bytes) <= 10_000
    assert 5 << 20 <= part_bytes <= 5 << 30


def test_a_pace_lets_so_many_bytes_a_second_through_over_all_threads() -> None:
    pace = Pace(1e6)
    started_at = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(pace.wait, [50_000] * 5))
    # The last of five parts may go when the four before it have had their time.
    assert time.monotonic() - started_at >= 0.2
    Pace(None).wait(10**12)
