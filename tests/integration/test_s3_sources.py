"""Sources in a bucket of a real S3 server: listed, read, and read again when they change."""

import gzip
import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from storage.layout import Layout
from storage.local_objects import LocalObjects
from tasks.readers import FieldNames
from tasks.refresh import refresh
from tasks.refresh_request import RefreshRequest, RefreshResult, TrainedTokenizer
from tasks.sources import SourceConfig
from tasks.split import HoldoutConfig
from tests.integration.servers.gateway import Gateway

pytestmark = pytest.mark.integration


class Place:
    """A bucket with a folder of documents, and a lineage that reads it."""

    def __init__(self, gateway: Gateway, s3_root: str, folder: Path) -> None:
        self.client = gateway.client()
        self.bucket, self.prefix = s3_root.removeprefix("s3://").split("/")
        self.store = LocalObjects(folder / "store")
        self.work_dir = folder / "work"
        self.work_dir.mkdir()

    def put(self, name: str, numbers: Iterable[int]) -> None:
        lines = (
            json.dumps({"id": f"d{n}", "text": f"document {n}: " + f"word{n} again " * 20}) + "\n"
            for n in numbers
        )
        body = gzip.compress("".join(lines).encode())
        self.client.put_object(Bucket=self.bucket, Key=f"{self.prefix}/data/{name}", Body=body)

    def refresh(self) -> RefreshResult:
        source = SourceConfig(
            name="web",
            uri=f"s3://{self.bucket}/{self.prefix}/data/*.jsonl.gz",
            domain="web",
            fields=FieldNames(id="id"),
        )
        request = RefreshRequest(
            sources=(source,),
            tokenizer=TrainedTokenizer(300),
            seq_len=32,
            holdout=HoldoutConfig(min_clusters=3),
        )
        return refresh(self.store, Layout("demo"), request, by="test", work_dir=self.work_dir)


@pytest.fixture
def place(gateway: Gateway, s3_root: str, tmp_path: Path) -> Place:
    return Place(gateway, s3_root, tmp_path)


def test_new_and_replaced_objects_are_read_once_and_nothing_else_again(place: Place) -> None:
    place.put("1.jsonl.gz", range(40))
    first = place.refresh()
    assert (first.files_listed, first.files_new, first.documents_read) == (1, 1, 40)
    again = place.refresh()
    assert (again.snapshot, again.files_new) == (None, 0)
    place.put("2.jsonl.gz", range(40, 70))
    place.put("1.jsonl.gz", [*range(40), *range(100, 110)])
    second = place.refresh()
    # The replaced file brings ten new documents, and forty that are known.
    assert (second.files_new, second.documents_read) == (2, 80)
    assert second.train_documents + second.holdout_documents == 40
    assert second.documents_dropped == {"duplicate": 40}


def test_an_object_larger_than_a_range_is_read_whole(place: Place) -> None:
    place.put("large.jsonl.gz", range(20))
    noise = "".join(
        json.dumps({"id": f"n{n}", "text": f"{n} " * 100_000}) + "\n" for n in range(60)
    )
    key = f"{place.prefix}/data/noise.jsonl.gz"
    body = gzip.compress(noise.encode(), compresslevel=0)
    assert len(body) > 3 * (1 << 22)
    place.client.put_object(Bucket=place.bucket, Key=key, Body=body)
    result = place.refresh()
    assert (result.documents_read, result.lines_rejected) == (80, {})
