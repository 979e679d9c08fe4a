"""The store on a real S3 server: its contract, and one sentence for each way to be refused."""

import datetime
import pickle
import socket
import subprocess
import sys
import time
import traceback
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from storage.errors import (
    AccessError,
    StorageError,
    StoreFullError,
    UnavailableError,
    UnsafeStoreError,
)
from storage.objects import ObjectStore, open_store, probe
from storage.s3 import open_bucket
from storage.s3_retry import Retry
from storage.s3_transfer import PART_BYTES
from tests.integration.servers.fault_proxy import FaultProxy
from tests.integration.servers.gateway import Gateway
from tests.storage.store_contract import StoreContract
from tests.support.killing_store import run_killed

pytestmark = pytest.mark.integration

VERBS: dict[str, Callable[[ObjectStore], object]] = {
    "get": lambda store: store.get("a"),
    "exists": lambda store: store.exists("a"),
    "put": lambda store: store.put("a", b"one"),
    "put_if_absent": lambda store: store.put_if_absent("a", b"one"),
    "list": lambda store: list(store.list("a")),
    "delete": lambda store: store.delete("a"),
}


@pytest.fixture
def store(s3_root: str) -> ObjectStore:
    return open_store(s3_root)


class TestS3Objects(StoreContract):
    """The contract on a bucket."""


def assert_refused(
    store: ObjectStore, kind: type[StorageError], sentence: str, *secrets: str
) -> None:
    """Every verb ends in this one sentence, which names the store and no secret."""
    for verb in VERBS.values():
        with pytest.raises(kind, match=sentence) as caught:
            verb(store)
        told = str(caught.value)
        assert store.uri in told
        assert "; " in told
        assert "\n" not in told
        assert str(pickle.loads(pickle.dumps(caught.value))) == told
        trace = "".join(traceback.format_exception(caught.value))
        assert not [secret for secret in secrets if secret in trace]


def test_a_wrong_secret_key(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-wrong-secret-key")
    sentence = "the secret key does not fit the access key; correct AWS_SECRET_ACCESS_KEY"
    assert_refused(store, AccessError, sentence, "a-wrong-secret-key")


def test_an_unknown_access_key(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKNOBODY")
    assert_refused(store, AccessError, "the access key is unknown there; correct AWS_ACCESS_KEY_ID")


def test_missing_credentials(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert_refused(store, AccessError, "there are no complete credentials; set AWS_ACCESS_KEY_ID")


def test_an_expired_token_as_a_proxy_answers_it(
    store: ObjectStore, fault_proxy: FaultProxy
) -> None:
    # A real token lives 900 s at least, longer than a test may last.
    fault_proxy.scatter(["expired"], rate=1.0, seed=0)
    assert_refused(store, AccessError, "the temporary credentials have expired; get new ones")


def test_no_right_to_the_bucket(
    store: ObjectStore, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = gateway.new_user("stranger")
    for name, value in gateway.environment(stranger).items():
        monkeypatch.setenv(name, value)
    sentence = "these credentials may not do this; grant the right"
    assert_refused(store, AccessError, sentence, stranger.secret_key)


@pytest.mark.parametrize(
    ("ahead_seconds", "sentence"),
    [(1200, r"1(19|20)\d s ahead of"), (-86_400, r"86\d\d\d s behind")],
)
def test_a_wrong_clock(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, ahead_seconds: int, sentence: str
) -> None:
    true_time = time.time
    shift = datetime.timedelta(seconds=ahead_seconds)
    monkeypatch.setattr(time, "time", lambda: true_time() + ahead_seconds)
    monkeypatch.setattr(
        "botocore.auth.get_current_datetime",
        lambda: datetime.datetime.now(datetime.UTC).replace(tzinfo=None) + shift,
    )
    assert_refused(store, AccessError, f"the clock of this machine is {sentence} the store's")


def test_a_missing_bucket(s3_root: str) -> None:
    store = open_store("s3://no-such-bucket/prefix")
    assert_refused(store, AccessError, "there is no such bucket; create it, or correct the name")


def test_an_unreachable_endpoint(s3_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    store = open_bucket(s3_root, Retry(budget_seconds=0.3))
    assert_refused(store, UnavailableError, f"at {endpoint}: no success in all attempts")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("AWS_ENDPOINT_URL_S3", "nonsense"),
        ("AWS_PROFILE", "nobody"),
        ("AWS_DEFAULT_REGION", "no where"),
    ],
)
def test_a_configuration_that_names_nothing(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(AccessError, match=f"as configured: .*{value}.*; correct AWS_ENDPOINT_URL"):
        store.get("a")


def test_a_full_bucket(gateway: Gateway, s3_root: str, tmp_path: Path) -> None:
    bucket = s3_root.removeprefix("s3://").split("/")[0]
    store = open_store(s3_root)
    store.put("a", b"one")
    gateway.set_quota(bucket, max_objects=1)
    large = tmp_path / "large"
    large.write_bytes(bytes(PART_BYTES + 1))
    writes: list[Callable[[], object]] = [
        lambda: store.put("b", b"two"),
        lambda: store.put_if_absent("b", b"two"),
        lambda: store.put_file("b", large),
    ]
    for write in writes:
        with pytest.raises(StoreFullError, match=r"the bucket is full .QuotaExceeded.; make room"):
            write()
    assert store.get("a") == b"one"
    assert not store.exists("b")
    assert store.abort_uploads("b", older_than=9e12) == 0


def test_keys_exchanged_while_we_run_are_read_again(
    gateway: Gateway, s3_root: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bucket = s3_root.removeprefix("s3://").split("/")[0]
    user = gateway.new_user("rotated")
    file = tmp_path / "credentials"

    def write_file(access_key: str, secret_key: str) -> None:
        keys = f"aws_access_key_id = {access_key}\naws_secret_access_key = {secret_key}\n"
        file.write_text(f"[default]\n{keys}")

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    write_file(user.access_key, user.secret_key)
    own = f"{bucket}-of-{user.name}"
    gateway.client(user).create_bucket(Bucket=own)
    store = open_store(f"s3://{own}")
    store.put("a", b"one")
    gateway.admin("key", "rm", f"--uid={user.name}", f"--access-key={user.access_key}")
    gateway.admin(
        "key", "create", f"--uid={user.name}", "--access-key=AKSECOND", "--secret=second-secret"
    )
    write_file("AKSECOND", "second-secret")
    store.put("a", b"two")
    assert store.get("a") == b"two"


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
    deadline = time.monotonic() + 30
    while True:
        try:
            urllib.request.urlopen(endpoint, timeout=5).close()
        except urllib.error.HTTPError:
            return
        except (urllib.error.URLError, ConnectionError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


def test_a_server_that_ignores_conditions_is_refused(rclone_root: str) -> None:
    with pytest.raises(UnsafeStoreError, match="a second writer win: put-if-absent"):
        probe(open_store(rclone_root))
