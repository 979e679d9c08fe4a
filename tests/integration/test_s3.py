"""The store on a real S3 server: its contract, and what no made-up server shows."""

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from storage.errors import (
    UnsafeStoreError,
)
from storage.objects import ObjectStore, open_store, probe
from tests.integration.servers.gateway import Gateway
from tests.storage.store_contract import StoreContract
from tests.support.killing_store import run_killed
from tests.support.waiting import wait_for

pytestmark = pytest.mark.integration


@pytest.fixture
def store(s3_root: str) -> ObjectStore:
    return open_store(s3_root)


class TestS3Objects(StoreContract):
    """The contract on a bucket."""


def test_the_gateway_refuses_the_tag_that_it_gave_as_it_gave_it(
    gateway: Gateway, s3_root: str
) -> None:
    # When this fails the gateway has mended it, and storage/s3.py may send tags as they came.
    bucket, prefix = s3_root.removeprefix("s3://").split("/")
    client, place = gateway.client(), {"Bucket": bucket, "Key": f"{prefix}/a"}
    etag = client.put_object(**place, Body=b"one")["ETag"]
    assert etag.startswith('"')
    with pytest.raises(ClientError, match="PreconditionFailed"):
        client.put_object(**place, Body=b"two", IfMatch=etag)
    client.put_object(**place, Body=b"two", IfMatch=etag.strip('"'))


def test_a_fork_uses_connections_of_its_own(store: ObjectStore) -> None:
    store.put("a", b"one")

    def read_often() -> None:
        for _ in range(50):
            assert open_store(store.uri).get("a") == b"one"

    read_often()
    end = run_killed(read_often)
    assert (end.code, end.error) == (0, "")
    read_often()


def test_uploads_of_killed_writers_are_dropped_after_the_grace_time(
    gateway: Gateway, s3_root: str
) -> None:
    store = open_store(s3_root)
    bucket, prefix = s3_root.removeprefix("s3://").split("/")
    client = gateway.client()
    for key in (f"{prefix}/lineages/demo/x", f"{prefix}/lineages/demo2/x", "elsewhere/x"):
        upload = client.create_multipart_upload(Bucket=bucket, Key=key)
        client.upload_part(
            Bucket=bucket, Key=key, UploadId=upload["UploadId"], PartNumber=1, Body=b"x"
        )
    now = time.time()
    listed = list(store.list_uploads("lineages/demo"))
    assert [info.key for info in listed] == ["lineages/demo/x"]
    assert now - 60 < listed[0].modified_at < now + 60
    assert store.abort_uploads("lineages/demo", older_than=now - 3600) == 0
    assert store.abort_uploads("lineages/demo", older_than=now + 3600) == 1
    left = client.list_multipart_uploads(Bucket=bucket)["Uploads"]
    assert {row["Key"] for row in left} == {f"{prefix}/lineages/demo2/x", "elsewhere/x"}


def test_a_listing_goes_on_over_pages_and_leaves_out_folder_marks(
    gateway: Gateway, s3_root: str
) -> None:
    store = open_store(s3_root)
    bucket, prefix = s3_root.removeprefix("s3://").split("/")
    client = gateway.client()
    client.put_object(Bucket=bucket, Key=f"{prefix}/many/folder/", Body=b"")
    for number in range(1001):
        client.put_object(Bucket=bucket, Key=f"{prefix}/many/{number:04d}", Body=b"")
    assert [info.key for info in store.list("many")] == [f"many/{n:04d}" for n in range(1001)]


@pytest.fixture
def rclone_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """A server that speaks S3 and ignores conditions."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "data" / "bucket").mkdir(parents=True)
    program = Path(sys.executable).with_name("rclone")
    arguments = ["--addr", f"127.0.0.1:{port}", "--auth-key", "AKTEST,secret", "--config", ""]
    process = subprocess.Popen(
        [program, "serve", "s3", *arguments, str(tmp_path / "data")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={"RCLONE_CACHE_DIR": str(tmp_path / "cache")},
    )
    variables = {
        "AWS_ACCESS_KEY_ID": "AKTEST",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{port}",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    try:
        _wait_for(variables["AWS_ENDPOINT_URL_S3"])
        yield "s3://bucket/prefix"
    finally:
        process.kill()
        process.wait()


def _wait_for(endpoint: str) -> None:
    def answers() -> bool:
        try:
            urllib.request.urlopen(endpoint, timeout=5).close()
        except urllib.error.HTTPError:
            return True
        except (urllib.error.URLError, ConnectionError):
            return False
        return True

    wait_for(answers, 30, endpoint)


def test_a_server_that_ignores_conditions_is_refused(rclone_root: str) -> None:
    with pytest.raises(UnsafeStoreError, match="a second writer win: put-if-absent"):
        probe(open_store(rclone_root))
